"""The page for people in a real Chromium, around a real service.

``python -m tests.integration.test_page docs/page.png`` makes the picture of `docs/how-to/page.md` anew.
"""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from forecasting.models.bundle import read_bundle
from forecasting.models.manifest import MANIFEST, encoded_manifest
from tests import serving
from tests.serving import END, ROOT, Running, make_bundle, observations, recorded_table

WINTER = datetime(2013, 12, 1, tzinfo=UTC)
CHROMIUM = "this test needs Chromium: apt-get install chromium"
HOSTILE = "<img src=x onerror=alert(1)><b>bold</b>"
LEVELS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One Chromium for all tests of the module."""
    if shutil.which("chromium") is None:
        if os.environ.get("RPS_NOTHING_LEFT_OUT"):
            pytest.fail(CHROMIUM)
        pytest.skip(CHROMIUM)
    with _chromium() as started:
        yield started


@contextmanager
def _chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        try:
            yield started
        finally:
            started.close()


@dataclass
class Seen:
    """A page, and everything that it asked for and complained about."""

    page: Page
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    @property
    def words(self) -> str:
        return self.page.locator("body").inner_text()


@contextmanager
def _seen(browser: Browser, url: str, **options: Any) -> Iterator[Seen]:
    """The page, with a state shown; whatever fails on it is written down."""
    context = browser.new_context(**{"reduced_motion": "reduce", **options})
    try:
        seen = _watched(context)
        seen.page.goto(url)
        expect(seen.page.locator("#content")).to_be_visible()
        yield seen
    finally:
        context.close()


def _watched(context: BrowserContext) -> Seen:
    context.set_default_timeout(20_000)
    context.add_init_script(
        "addEventListener('securitypolicyviolation', (event) => console.error('CSP', event.violatedDirective))"
    )
    seen = Seen(context.new_page())
    seen.page.on("request", lambda request: seen.requests.append(request.url))
    seen.page.on("console", lambda said: seen.complaints.append(said.text) if said.type != "log" else None)
    seen.page.on("pageerror", lambda error: seen.complaints.append(str(error)))
    return seen


def _renamed(records: Iterator[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    return [{**record, "unique_id": name} for record in records]


def _rewrite_manifest(bundle: Path, **changes: str) -> None:
    manifest = msgspec.structs.replace(read_bundle(bundle).manifest, **changes)
    (bundle / MANIFEST).write_bytes(encoded_manifest(manifest))


@pytest.fixture(scope="module")
def december() -> list[dict[str, Any]]:
    """EWR's last days, from which a test makes a series of its own."""
    return list(observations(recorded_table(datetime(2013, 12, 20, tzinfo=UTC), END), "EWR"))


def _shown_forecasts(page: Page) -> list[list[float]]:
    """Per row of the next forecasts: value, lower and upper, as exact as the page was reported them."""
    rows = page.locator("#next tbody tr").all()
    return [[float(found.get_attribute("value") or "nan") for found in row.locator("data").all()] for row in rows]


def _forecasts_of(service: Running, name: str) -> list[list[float]]:
    message = service.get(f"/v1/forecasts/{name}").json()["forecasts"]
    return [[each["value"], each["lower"], each["upper"]] for each in message]


def _newest(page: Page) -> float:
    return float(page.locator("#newest data").get_attribute("value") or "nan")


def test_page_follows_new_observations_without_a_reload(
    browser: Browser, service: Running, december: list[dict[str, Any]]
) -> None:
    records = _renamed(iter(december), "followed")
    service.send(records[:-1])
    with _seen(browser, f"{service.url}/?series=followed") as seen:
        page = seen.page
        page.evaluate("window.neverReloaded = true")
        assert _newest(page) == records[-2]["temperature"]
        before = _shown_forecasts(page)
        service.send([{**records[-1], "temperature": 12.25}])
        expect(page.locator("#newest data")).to_have_attribute("value", "12.25")
        assert _shown_forecasts(page) == _forecasts_of(service, "followed")
        assert _shown_forecasts(page) != before
        described = page.locator("#chart desc").text_content() or ""
        first = _forecasts_of(service, "followed")[0][0]
        assert "Newest value 12." in described
        assert f"Next forecast {first:.1f}".replace("-", "\u2212") in described
        assert page.evaluate("window.neverReloaded")


def test_page_shows_the_forecasts_that_the_service_gives(browser: Browser, service: Running) -> None:
    with _seen(browser, f"{service.url}/?series=JFK") as seen:
        message = _forecasts_of(service, "JFK")
        assert _shown_forecasts(seen.page) == message
        rows = seen.page.locator("#next tbody tr").all()
        shown = [[found.inner_text() for found in row.locator("data").all()] for row in rows]
        assert shown == [[f"{value:.1f}".replace("-", "\u2212") for value in row] for row in message]
        assert seen.page.locator(".next-dot").count() == len(message) + 1  # and one in the legend
        model = service.get("/health").json()
        assert model["git_sha"][:8] in seen.words
        assert "trained until 31 Dec 2013, 23:00 UTC" in seen.words.replace("\u00a0", " ")


def test_chart_and_its_table_show_observations_and_the_forecasts_made_for_them(
    browser: Browser, service: Running, december: list[dict[str, Any]]
) -> None:
    service.send(_renamed(iter(december), "charted"))
    known = service.get("/v1/series/charted").json()
    with _seen(browser, f"{service.url}/?series=charted") as seen:
        page = seen.page
        for horizon in (4, 6):
            page.locator("#horizon").select_option(str(horizon))
            page.locator("#rows").evaluate("(details) => { details.open = true; }")
            expect(page.locator("#made-legend")).to_contain_text(f"forecast {horizon}\u00a0h before")
            made = {each["ds"]: each for each in known["made"] if each["horizon"] == horizon}
            for row in page.locator("#rows-table tbody tr").all()[len(known["next"]) :]:
                ds = row.locator("time").get_attribute("datetime")
                cells = [text.replace("\u2212", "-") for text in row.locator("td").all_inner_texts()]
                value = next(each["value"] for each in known["observations"] if each["ds"] == ds)
                assert float(cells[0]) == pytest.approx(value, abs=0.051)
                assert float(cells[1]) == pytest.approx(made[ds]["value"], abs=0.051)
        page.locator("#chart").hover(position={"x": 200, "y": 100})
        expect(page.locator("#readout")).to_contain_text("observed")
        expect(page.locator("#readout")).to_contain_text("forecast 6\u00a0h before")


def test_series_can_be_switched_and_the_address_keeps_the_choice(browser: Browser, service: Running) -> None:
    with _seen(browser, service.url) as seen:
        page = seen.page
        page.locator("#series").select_option("LGA")
        expect(page.locator("#chart-heading")).to_have_text("LGA: temperature")
        assert _shown_forecasts(page) == _forecasts_of(service, "LGA")
        page.reload()
        expect(page.locator("#chart-heading")).to_have_text("LGA: temperature")
        assert seen.complaints == []


def test_one_of_many_series_is_found_by_typing(browser: Browser, bundle: Path, tmp_path: Path) -> None:
    with serving.running(bundle, tmp_path / "log") as own:
        names = [f"station-{number:03}" for number in range(520)]
        own.send([{"unique_id": name, "ds": "2014-01-01T00:00:00Z", "temperature": 1.0} for name in names])
        with _seen(browser, own.url) as seen:
            page = seen.page
            page.get_by_label("Find").fill("-04")
            expect(page.locator("#series option")).to_have_count(11)  # ten, and the one that is shown
            page.get_by_label("Find").fill("-042")
            page.get_by_label("Find").press("Enter")
            expect(page.locator("#chart-heading")).to_have_text("station-042: temperature")
            page.get_by_label("Find").fill("station-519")  # beyond the names that the page is reported
            page.get_by_label("Find").press("Enter")
            expect(page.locator("#chart-heading")).to_have_text("station-519: temperature")
            expect(page.locator("#problem")).to_contain_text("No next forecast for station-519")
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_page_says_what_is_missing_when_there_is_no_next_forecast(
    browser: Browser, service: Running, december: list[dict[str, Any]]
) -> None:
    records = _renamed(iter(december), "gappy")
    service.send([*records[:40], records[-1]])
    with _seen(browser, f"{service.url}/?series=gappy") as seen:
        refused = service.get("/v1/forecasts/gappy")
        assert refused.status_code == 409
        gap = refused.json()["detail"].removeprefix("gappy: ").split(". POST")[0]
        expect(seen.page.locator("#problem")).to_contain_text(gap)
        expect(seen.page.locator("#chart desc")).to_contain_text("No next forecast")
        assert seen.page.locator("#next").is_hidden()
        assert _newest(seen.page) == records[-1]["temperature"]


def test_page_says_how_much_it_has_until_it_can_tell_drift_and_error(
    browser: Browser, bundle: Path, tmp_path: Path, december: list[dict[str, Any]]
) -> None:
    with serving.running(bundle, tmp_path / "log") as own:
        own.send(_renamed(iter(december[:22]), "young"))
        with _seen(browser, f"{own.url}/?series=young") as seen:
            rows = int(own.metrics()['rps_predictions_total{source="stream"}'])
            assert 0 < rows < 30
            drift = seen.page.locator("#drift-words")
            expect(drift).to_contain_text(f"{rows} of the 30 rows")
            expect(seen.page.locator("#live-words")).to_contain_text("it takes 30 forecasts")
            own.send(_renamed(iter(december[22:]), "young"))
            expect(drift).to_contain_text("of the last")
            expect(seen.page.locator("#live tbody tr")).to_have_count(4)


def test_page_tells_drift_beyond_its_limit_with_the_features_and_unusual_inputs(
    browser: Browser, bundle: Path, tmp_path: Path, december: list[dict[str, Any]]
) -> None:
    with serving.running(bundle, tmp_path / "log") as own:
        own.send(
            [
                {**each, "temperature": 48.0 + 10.0 * math.sin(1.3 * place), "pressure": 871.0 + 9.0 * (place % 2)}
                for place, each in enumerate(_renamed(iter(december), "hot"))
            ]
        )
        with _seen(browser, f"{own.url}/?series=hot") as seen:
            page = seen.page
            expect(page.locator("#drift-verdict")).to_have_text("drifting")
            expect(page.locator("#live-verdict")).to_have_text("drifting")
            samples = own.metrics()
            share = samples["rps_out_of_distribution_ratio"]
            assert share > 0.2
            assert f"{100 * share:.0f}\u00a0%" in (page.locator("#drift-words").text_content() or "")
            expect(page.locator("#drift-words .beyond")).to_have_count(2)
            verdicts: list[str] = []
            for row in page.locator("#drift tbody tr").all():
                feature = row.locator("th").inner_text()
                index = float(row.locator("data").first.get_attribute("value") or "nan")
                message = [value for name, value in samples.items() if f'feature="{feature}"' in name]
                assert any(value == pytest.approx(index) for value in message), feature
                limit = next(
                    value
                    for name, value in samples.items()
                    if name.startswith("rps_population_stability_limit") and f'feature="{feature}"' in name
                )
                verdicts.append("drifting" if index > limit else "within its limit")
                assert row.locator("td").last.inner_text() == verdicts[-1], feature
            assert verdicts[:3] == ["drifting"] * 3
            unusual = own.get("/v1/forecasts/hot").json()["unusual"]
            assert len(unusual) > 3
            page.locator("#more summary").click()
            shown = page.locator("#unusual code, #more code").all_inner_texts()
            assert shown == [each["feature"] for each in unusual]


def test_phone_has_nothing_to_scroll_sideways(browser: Browser, service: Running) -> None:
    with _seen(browser, service.url, viewport={"width": 360, "height": 740}, is_mobile=True, has_touch=True) as seen:
        seen.page.locator("#rows summary").click()
        assert seen.page.evaluate("document.documentElement.scrollWidth") == 360
        beyond = """() => [...document.querySelectorAll("body *")]
            .filter((each) => each.getBoundingClientRect().right > innerWidth + 0.5 && !each.closest(".scroll"))
            .map((each) => each.outerHTML.slice(0, 80))"""
        assert seen.page.evaluate(beyond) == []


def test_page_asks_nobody_but_the_service_and_breaks_no_policy(browser: Browser, service: Running) -> None:
    with _seen(browser, service.url) as seen:
        seen.page.locator("#horizon").select_option("6")
        seen.page.locator("#rows summary").click()
        asked = [each for each in seen.requests if not each.startswith("data:")]
        assert {each.split("?")[0].removeprefix(service.url) for each in asked} >= {"/", "/page/page.js", "/events"}
        assert [each for each in asked if not each.startswith(f"{service.url}/")] == []
        assert seen.complaints == []


def test_the_page_of_the_api_shows_every_operation_and_asks_nobody_but_the_service(
    browser: Browser, service: Running
) -> None:
    document = service.get("/schema").json()
    context = browser.new_context()
    try:
        seen = _watched(context)
        seen.page.goto(f"{service.url}/schema/docs")
        for path in ("/v1/observations", "/v1/forecasts/{unique_id}", "/v2/models/weather/infer", "/health"):
            assert path in document["paths"]
            expect(seen.page.get_by_text(path, exact=True).first).to_be_visible()
        assert [each for each in seen.requests if not each.startswith((f"{service.url}/", "data:"))] == []
        assert seen.complaints == []
    finally:
        context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_accessibility_check_finds_nothing(
    browser: Browser, service: Running, december: list[dict[str, Any]], scheme: str
) -> None:
    service.send(_renamed(iter(december), "checked"))
    for path, width in (("/?series=checked", 1280), ("/?series=checked", 360), ("/?series=nobody", 1280)):
        viewport = {"width": width, "height": 900}
        with _seen(browser, service.url + path, viewport=viewport, color_scheme=scheme, bypass_csp=True) as seen:
            if "checked" in path:
                seen.page.locator("#rows summary").click()
            options = {"runOnly": {"type": "tag", "values": LEVELS}}
            found = Axe().run(seen.page, options=options)
            assert found.response["passes"], "the check has checked nothing"
            assert found.response["violations"] == [], found.generate_report()


def test_text_of_the_service_and_of_the_address_never_becomes_markup(
    browser: Browser, bundle: Path, tmp_path: Path
) -> None:
    hostile = shutil.copytree(bundle, tmp_path / "bundle")
    _rewrite_manifest(hostile, title=HOSTILE, unit="<i>C</i>")
    with serving.running(hostile, tmp_path / "log", {"RPS_MODEL_VERSION": "<u>7"}) as own:
        with _seen(browser, own.url) as seen:
            expect(seen.page.locator("h1")).to_have_text(HOSTILE)
            assert seen.page.title().endswith(HOSTILE)
            assert "<u>7" in seen.words
            assert "<i>C</i>" in (seen.page.locator("#chart .label").first.text_content() or "")
            assert seen.page.locator("img, h1 b, i, u").count() == 0
            assert seen.complaints == []
        with _seen(browser, f"{own.url}/?series=%3Cimg%20src%3Dx%20onerror%3Dalert(1)%3E") as seen:
            expect(seen.page.locator("#problem")).to_contain_text("<img src=x onerror=alert(1)>")
            assert seen.page.locator("img").count() == 0
            assert seen.complaints == []


def test_event_that_cannot_be_read_is_skipped(browser: Browser, service: Running) -> None:
    keep_source = """const Real = EventSource;
        window.EventSource = class extends Real { constructor(url) { super(url); window.heardFrom = this; } };"""
    context = browser.new_context()
    try:
        context.add_init_script(keep_source)
        seen = _watched(context)
        seen.page.goto(f"{service.url}/?series=EWR")
        expect(seen.page.locator("#content")).to_be_visible()
        send = "(data) => heardFrom.dispatchEvent(new MessageEvent('state', { data }))"
        for broken in ("{", "null", "[]", '{"model": {}}'):
            seen.page.evaluate(send, broken)
        assert len(seen.complaints) == 4
        assert all("skipped" in each for each in seen.complaints)
        newest = service.get("/v1/series/EWR").json()["observations"][-1]
        service.send([{"unique_id": "EWR", "ds": newest["ds"], "temperature": newest["value"] + 1.5}])
        expect(seen.page.locator("#newest data")).to_have_attribute("value", str(newest["value"] + 1.5))
    finally:
        context.close()


def test_page_says_that_the_connection_is_lost_and_recovers_by_itself(
    browser: Browser, bundle: Path, tmp_path: Path
) -> None:
    with serving.running(bundle, tmp_path / "first") as first, _seen(browser, first.url) as seen:
        status = seen.page.locator("#status")
        expect(status).to_have_text("Live")
        seen.page.evaluate("window.neverReloaded = true")
        assert first.stop() == 0
        expect(status).to_contain_text("Connection lost since")
        assert seen.page.locator("#newest data").is_visible()
        with _again(bundle, first, tmp_path / "second"):
            expect(status).to_have_text("Live", timeout=30_000)
            newest = first.get("/v1/series/EWR").json()["observations"][-1]
            first.send([{"unique_id": "EWR", "ds": newest["ds"], "temperature": newest["value"] + 1.5}])
            expect(seen.page.locator("#newest data")).to_have_attribute("value", str(newest["value"] + 1.5))
            assert seen.page.evaluate("window.neverReloaded")


@contextmanager
def _again(bundle: Path, earlier: Running, log: Path) -> Iterator[None]:
    """A new process at the port of an earlier one that has ended."""
    command = [sys.executable, "-m", "service", "--bundle", str(bundle), "--port", str(earlier.port)]
    with log.open("w") as output:
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output)
    try:
        until = time.monotonic() + serving.READY_SECONDS
        while True:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < until, log.read_text()
            try:
                earlier.get("/health").raise_for_status()
                break
            except httpx.HTTPError:
                time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait(timeout=20)


def test_silent_connection_is_given_up_and_made_anew(browser: Browser, service: Running) -> None:
    context = browser.new_context()
    try:
        seen = _watched(context)
        seen.page.clock.install()
        seen.page.goto(service.url)
        expect(seen.page.locator("#content")).to_be_visible()
        before = sum("/events" in each for each in seen.requests)
        seen.page.clock.fast_forward(60_000)
        expect(seen.page.locator("#status")).to_have_text("Live")
        assert sum("/events" in each for each in seen.requests) == before + 1
    finally:
        context.close()


def test_page_that_is_one_too_many_says_so_and_is_served_when_another_has_gone(
    browser: Browser, bundle: Path, tmp_path: Path
) -> None:
    with serving.running(bundle, tmp_path / "log", {"RPS_MAX_VIEWERS": "1"}) as own:
        context = browser.new_context()
        try:
            with _seen(browser, own.url):
                seen = _watched(context)
                seen.page.goto(own.url)
                expect(seen.page.locator("#status")).to_contain_text("RPS_MAX_VIEWERS")
                expect(seen.page.locator("#waiting")).to_be_visible()
            expect(seen.page.locator("#status")).to_have_text("Live", timeout=30_000)
            expect(seen.page.locator("#content")).to_be_visible()
        finally:
            context.close()


def test_page_stays_with_its_series_when_one_with_an_earlier_name_appears(
    browser: Browser, bundle: Path, tmp_path: Path
) -> None:
    with serving.running(bundle, tmp_path / "log") as own, _seen(browser, own.url) as seen:
        expect(seen.page.locator("#chart-heading")).to_have_text("EWR: temperature")
        own.send([{"unique_id": "AAA", "ds": "2014-01-01T00:00:00Z", "temperature": 1.0}])
        expect(seen.page.locator("#series option")).to_have_text(["AAA", "EWR", "JFK", "LGA"])
        expect(seen.page.locator("#chart-heading")).to_have_text("EWR: temperature")
        expect(seen.page.locator("#series")).to_have_value("EWR")


@pytest.mark.parametrize(("motion", "animation"), [("no-preference", "breathe"), ("reduce", "none")])
def test_nothing_moves_for_those_who_ask_for_less_motion(
    browser: Browser, service: Running, motion: str, animation: str
) -> None:
    with _seen(browser, service.url, reduced_motion=motion) as seen:
        found = "getComputedStyle(document.querySelector('#status'), '::before').animationName"
        assert seen.page.evaluate(found) == animation


def take_picture(path: Path) -> None:
    """The page while December comes in, which its model has never seen."""
    with tempfile.TemporaryDirectory() as scratch, _chromium() as browser:
        bundle = make_bundle(Path(scratch) / "bundle", last=WINTER)
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
        _rewrite_manifest(bundle, git_sha=commit.stdout.strip())
        winter = recorded_table(WINTER, END)
        with serving.running(bundle, Path(scratch) / "log", {"RPS_MODEL_VERSION": "7"}) as own:
            for name in winter.unique_ids:
                own.send(list(observations(winter, name)))
            with _seen(browser, own.url, viewport={"width": 1280, "height": 900}) as seen:
                expect(seen.page.locator("#live")).to_be_visible()
                seen.page.screenshot(path=path)


if __name__ == "__main__":
    take_picture(Path(sys.argv[1]))
