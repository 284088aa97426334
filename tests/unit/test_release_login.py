"""To which registry the login is sent when anybody may name the image."""

from __future__ import annotations

import pytest

from ci.release.verify import credentials_for
from clients.engine import Credentials

LOGIN = {"REGISTRY_USERNAME": "ana", "REGISTRY_PASSWORD": "secret"}


@pytest.mark.parametrize(
    ("ours", "image"),
    [
        ("ana/weather", "ana/weather:v1.0.0"),
        ("ana/weather", "docker.io/bea/other:latest"),
        ("registry.example/ana/weather", "registry.example/ana/weather@sha256:" + "0" * 64),
        ("registry.example:5000/ana/{challenge}", "registry.example:5000/ana/weather:v1.0.0"),
        ("", "registry.example/ana/weather:v1.0.0"),
    ],
)
def test_our_registry_gets_the_login(ours: str, image: str) -> None:
    assert credentials_for(image, {**LOGIN, "RPS_IMAGE": ours}) == Credentials("ana", "secret")


@pytest.mark.parametrize(
    ("ours", "image"),
    [
        ("ana/weather", "evil.example/ana/weather:v1.0.0"),
        ("registry.example/ana/weather", "ana/weather:v1.0.0"),
        ("registry.example/ana/weather", "registry.example.evil.example/ana/weather:v1.0.0"),
        ("registry.example/ana/weather", "registry.example:81/ana/weather:v1.0.0"),
    ],
)
def test_another_registry_does_not(ours: str, image: str) -> None:
    assert credentials_for(image, {**LOGIN, "RPS_IMAGE": ours}) == Credentials("", "")
