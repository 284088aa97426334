"""Object storage: whole objects by key under `RPS_STORE`, and what each failure means."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from botocore.exceptions import BotoCoreError, ClientError

from clients.errors import ConfigurationError, PassingFault
from clients.settings import address, require

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

_ADDRESS = re.compile(r"s3://(?P<bucket>[A-Za-z0-9][A-Za-z0-9._-]*)(?P<prefix>(?:/.*)?)")
_DENIED = {"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "403", "401", "NoSuchBucket", "ExpiredToken"}
_UNKNOWN_TO_STORE = {400, 405, 411, 501}
"""How stores answer an unknown header; the status of `RequestTimeout` is 400, too."""
_PROBE = "probe"
_CHECKSUM_HINT = (
    "It needs the checksum headers that boto3 sends; for a store without them, set"
    " AWS_REQUEST_CHECKSUM_CALCULATION=when_required and AWS_RESPONSE_CHECKSUM_VALIDATION=when_required."
)
_CONDITION_HINT = (
    "It needs conditional writes (PUT with If-None-Match: *), so that no raw answer is ever replaced; let RPS_STORE and"
    " AWS_ENDPOINT_URL name a store that has them."
)


@dataclass(frozen=True)
class Store:
    """One bucket and prefix. Every method raises ConfigurationError (denied) or PassingFault (down, lost half-way)."""

    client: S3Client
    bucket: str
    prefix: str

    def check(self) -> None:
        """Raises ConfigurationError when the store lacks what the stages need; leaves the object `probe` there."""
        with self._needed(_CHECKSUM_HINT):
            self.put(_PROBE, b"probe")
            self.get(_PROBE)
        with self._needed(_CONDITION_HINT):
            replaced = self.put_new(_PROBE, b"probe")
        if replaced:
            raise ConfigurationError(f"S3 at {self._where} replaced an object despite If-None-Match. {_CONDITION_HINT}")

    def put(self, key: str, body: bytes) -> None:
        with self._faults(f"store {key}"):
            self.client.put_object(Bucket=self.bucket, Key=self._full(key), Body=body)

    def put_new(self, key: str, body: bytes) -> bool:
        """Store only if the key is free; False when it is taken."""
        with self._faults(f"store {key}"):
            try:
                self.client.put_object(Bucket=self.bucket, Key=self._full(key), Body=body, IfNoneMatch="*")
            except ClientError as error:
                if error.response["ResponseMetadata"]["HTTPStatusCode"] == 412:
                    return False
                raise
            return True

    def get(self, key: str) -> bytes | None:
        """The object, or None when there is none under that key."""
        with self._faults(f"fetch {key}"):
            try:
                return self.client.get_object(Bucket=self.bucket, Key=self._full(key))["Body"].read()
            except ClientError as error:
                if error.response["Error"]["Code"] == "NoSuchKey":
                    return None
                raise

    def keys(self, prefix: str) -> list[str]:
        """Every key that starts with ``prefix``, in order."""
        found: list[str] = []
        with self._faults(f"list {prefix}"):
            pages = self.client.get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self.bucket, Prefix=self._full(prefix)):
                found += [item["Key"][len(self.prefix) :] for item in page.get("Contents", ())]
        return sorted(found)

    def _full(self, key: str) -> str:
        return f"{self.prefix}{key}"

    @property
    def _where(self) -> str:
        return f"{self.client.meta.endpoint_url} (RPS_STORE=s3://{self.bucket}/{self.prefix})"

    @contextmanager
    def _needed(self, hint: str) -> Iterator[None]:
        """Turn the refusal of a header into a ConfigurationError with this hint."""
        try:
            yield
        except PassingFault as fault:
            if isinstance(fault.__cause__, ClientError):
                answer = fault.__cause__.response
                refused = answer["ResponseMetadata"]["HTTPStatusCode"] in _UNKNOWN_TO_STORE
                if refused and answer["Error"]["Code"] != "RequestTimeout":
                    raise ConfigurationError(f"{fault} {hint}") from fault
            raise

    @contextmanager
    def _faults(self, doing: str) -> Iterator[None]:
        try:
            yield
        except ClientError as error:
            message = f"S3 at {self._where} would not {doing}: {error}."
            if error.response["Error"]["Code"] in _DENIED:
                hint = "Check RPS_STORE, AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
                raise ConfigurationError(f"{message} {hint}") from error
            raise PassingFault(message) from error
        except (BotoCoreError, OSError) as error:
            raise PassingFault(f"S3 at {self._where} could not be reached to {doing}: {error}. Is it up?") from error


def open_store() -> Store:
    """The store that the environment names. Raises ConfigurationError naming what is missing or cannot be used."""
    require(os.environ, "RPS_STORE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    store = _ADDRESS.fullmatch(os.environ["RPS_STORE"])
    if store is None:
        expected = "s3://bucket or s3://bucket/prefix"
        raise ConfigurationError(f"RPS_STORE: expected {expected}; found {os.environ['RPS_STORE']!r}")
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        if os.environ.get(name):
            address(os.environ, name, "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
    prefix = store["prefix"].strip("/")
    return Store(_client(), store["bucket"], f"{prefix}/" if prefix else "")


def _client() -> S3Client:
    import boto3
    from botocore.config import Config

    config = Config(
        connect_timeout=5,
        read_timeout=30,
        retries={"mode": "standard", "total_max_attempts": 3},
        s3={"addressing_style": "path"},
    )
    try:
        # A session of its own: the default one keeps the first credentials that it saw.
        session = boto3.session.Session()
        return session.client("s3", config=config, region_name=os.environ.get("AWS_DEFAULT_REGION") or "us-east-1")
    except (BotoCoreError, ValueError) as error:
        hint = "Check AWS_ENDPOINT_URL, AWS_DEFAULT_REGION and AWS_PROFILE."
        raise ConfigurationError(f"S3 cannot be asked with these settings: {error}. {hint}") from error
