"""The report is one comment, whichever way it is posted; CML, where it is there, does no harm."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest

from ci.gate.comment import is_report, post_report, report_length, watermark
from ci.markdown import BODY_LIMIT
from clients.errors import ConfigurationError
from clients.github import GitHub
from clients.settings import GitHubSettings
from doubles.cml import main
from doubles.github.fixture import Double

ROOT = Path(__file__).resolve().parents[2]
SECRET = "mlflow-password-9f2d"


@pytest.fixture
def notes() -> list[str]:
    return []


@pytest.fixture
def github(github_double: Double, notes: list[str]) -> GitHub:
    return GitHub(github_double.settings(), patience_seconds=10, note=notes.append)


@pytest.fixture
def number(github_double: Double) -> int:
    github_double.commit("dev", {"model.py": "better\n"})
    return github_double.open_pull_request("dev", "test")


class Cml:
    """The stand-in on the path, and what it was given."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def install(self, monkeypatch: pytest.MonkeyPatch, script: str = "") -> None:
        """script: what it does, in place of what CML does."""
        program = self.home / "cml"
        run = script or f'exec "{sys.executable}" "{ROOT / "doubles" / "cml.py"}" "$@"'
        program.write_text(
            f'#!/bin/sh\necho "$@" >> "{self.home}/arguments"\nenv >> "{self.home}/environment"\n{run}\n'
        )
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{self.home}:/usr/bin:/bin")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", SECRET)

    def remove(self) -> None:
        (self.home / "cml").unlink()

    @property
    def calls(self) -> list[str]:
        """The arguments of each call."""
        shown = self.home / "arguments"
        return shown.read_text().splitlines() if shown.exists() else []


@pytest.fixture
def cml(tmp_path: Path) -> Cml:
    home = tmp_path / "bin"
    home.mkdir()
    return Cml(home)


@pytest.fixture(autouse=True)
def _no_cml_of_this_machine(monkeypatch: pytest.MonkeyPatch, cml: Cml) -> None:
    monkeypatch.setenv("PATH", f"{cml.home}:/usr/bin:/bin")


def post(github: GitHub, number: int, report: str, challenge: str = "weather", sha: str = "a" * 40) -> str:
    return post_report(report, github=github, pull_request=number, sha=sha, challenge=challenge)


def posted(double: Double, number: int) -> list[str]:
    return [comment["body"] for comment in double.comments(number)]


def test_without_cml_the_report_is_posted_through_the_api_and_replaced(
    github: GitHub, github_double: Double, number: int
) -> None:
    first = post(github, number, "# blocked")
    second = post(github, number, "# passed", sha="b" * 40)

    assert first == second == github_double.comments(number)[0]["html_url"]
    mark = f'![](https://cml.dev/watermark.png#{"b" * 40} "CML watermark model-gate/weather")'
    assert posted(github_double, number) == [f"# passed\n\n{mark}"]


def test_cml_posts_the_report_and_replaces_its_own(
    github: GitHub, github_double: Double, number: int, cml: Cml, notes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cml.install(monkeypatch)
    first = post(github, number, "# blocked")
    by_api = [request for request in github_double.requests() if request.startswith("POST") and "comments" in request]
    second = post(github, number, "# passed", sha="b" * 40)

    assert first == second == github_double.comments(number)[0]["html_url"]
    assert (len(cml.calls), len(by_api), notes) == (2, 1, [])
    assert posted(github_double, number) == [f"# passed\n\n{watermark('weather', 'b' * 40)}"]
    assert sum("PATCH" in request for request in github_double.requests()) == 1


def test_each_way_brings_the_others_comment_up_to_date(
    github: GitHub, github_double: Double, number: int, cml: Cml, monkeypatch: pytest.MonkeyPatch
) -> None:
    urls = set()
    for turn in range(4):
        if turn % 2:
            cml.install(monkeypatch)
        elif turn:
            cml.remove()
        urls.add(post(github, number, f"# turn {turn}", challenge="nyc_taxi*"))
        assert [body.splitlines()[0] for body in posted(github_double, number)] == [f"# turn {turn}"]

    assert (len(cml.calls), len(urls)) == (2, 1)


def test_cml_gets_the_token_by_its_environment_and_no_other_secret(
    github: GitHub, github_double: Double, number: int, cml: Cml, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("GITHUB_EVENT_NAME", "pull_request")
    cml.install(monkeypatch)

    post(github, number, "# passed")

    environment = (cml.home / "environment").read_text()
    assert github_double.token not in cml.calls[0]
    assert f"REPO_TOKEN={github_double.token}" in environment
    assert SECRET not in environment
    assert "GITHUB_EVENT_NAME" not in environment
    assert list(home.iterdir()) == []


def test_when_cml_fails_the_api_takes_over_and_says_so(
    github: GitHub, github_double: Double, number: int, cml: Cml, notes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cml.install(monkeypatch, 'echo "boom $REPO_TOKEN" >&2; exit 1')

    post(github, number, "# passed")

    assert len(posted(github_double, number)) == 1
    assert notes == ["warning: cml failed with exit code 1 (boom ***); posting the report through GitHub's API"]


def test_a_cml_that_does_not_start_is_replaced_by_the_api(
    github: GitHub, github_double: Double, number: int, cml: Cml, notes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (cml.home / "cml").write_text("#!/no/such/interpreter\n")
    (cml.home / "cml").chmod(0o755)

    post(github, number, "# passed")

    assert len(posted(github_double, number)) == 1
    assert "cml does not start" in notes[0]


def test_a_cml_that_hangs_is_ended_and_replaced_by_the_api(
    github: GitHub, github_double: Double, number: int, cml: Cml, notes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cml.install(monkeypatch, "exec sleep 60")

    post_report("# passed", github=github, pull_request=number, sha="a" * 40, challenge="weather", cml_seconds=0.5)

    assert len(posted(github_double, number)) == 1
    assert "cml did not end within 0.5 s" in notes[0]


def test_a_cml_that_fails_after_it_has_posted_leaves_one_comment(
    github: GitHub, github_double: Double, number: int, cml: Cml, monkeypatch: pytest.MonkeyPatch
) -> None:
    cml.install(monkeypatch, f'"{sys.executable}" "{ROOT / "doubles" / "cml.py"}" "$@"; exit 1')

    post(github, number, "# passed")

    assert len(posted(github_double, number)) == 1


def test_a_cml_that_says_it_posted_and_did_not_is_made_good(
    github: GitHub, github_double: Double, number: int, cml: Cml, monkeypatch: pytest.MonkeyPatch
) -> None:
    cml.install(monkeypatch, "echo https://example.org/1")

    assert post(github, number, "# passed") == github_double.comments(number)[0]["html_url"]


def test_a_comment_that_cml_would_not_see_is_still_the_only_one(
    github: GitHub, github_double: Double, number: int, cml: Cml, notes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in range(30):
        github_double.request("POST", f"issues/{number}/comments", {"body": f"{place}"})
    post(github, number, "# blocked")
    cml.install(monkeypatch)

    post(github, number, "# passed")

    assert sum(is_report(body, "weather") for body in posted(github_double, number)) == 1
    assert posted(github_double, number)[-1].startswith("# passed")
    assert (cml.calls, "first 30 comments only" in notes[0]) == ([], True)


@pytest.mark.parametrize("with_cml", [False, True])
def test_a_forged_report_is_neither_overwritten_nor_taken_for_ours(
    github: GitHub, github_double: Double, number: int, cml: Cml, with_cml: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    forged = f"# passed, honestly\n\n{watermark('weather', 'a' * 40)}"
    github_double.request("POST", f"issues/{number}/comments", {"body": forged}, token=github_double.outsider_token)
    if with_cml:
        cml.install(monkeypatch)

    post(github, number, "# blocked")
    at_first = list(cml.calls)
    post(github, number, "# blocked again")

    assert posted(github_double, number) == [forged, f"# blocked again\n\n{watermark('weather', 'a' * 40)}"]
    # Once ours is the newer one, CML finds ours.
    assert (at_first, len(cml.calls)) == ([], int(with_cml))


def test_a_comment_that_quotes_a_report_is_not_one() -> None:
    report = f"# passed\n\n{watermark('weather', 'a' * 40)}"

    assert is_report(f"{report}\n", "weather")
    assert not is_report("\n".join(f"> {line}" for line in report.splitlines()), "weather")
    assert not is_report(f"{report}\n\nI do not agree.", "weather")


def test_each_challenge_has_a_comment_of_its_own(
    github: GitHub, github_double: Double, number: int, cml: Cml, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        for challenge in ("weather", "weather_2", "w"):
            post(github, number, f"# {challenge}", challenge)
        cml.install(monkeypatch)

    assert [body.splitlines()[0] for body in posted(github_double, number)] == ["# weather", "# weather_2", "# w"]


def test_cml_is_not_run_where_it_would_take_the_token_to_another_host(
    github_double: Double, number: int, cml: Cml, notes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cml.install(monkeypatch)
    settings = GitHubSettings(github_double.url, "https://github.com", github_double.name, github_double.token)

    post(GitHub(settings, note=notes.append), number, "# passed")

    assert (cml.calls, len(posted(github_double, number))) == ([], 1)
    assert "CML does not know the API at" in notes[0]


def test_gates_at_the_same_time_leave_one_comment(
    github_double: Double, number: int, cml: Cml, monkeypatch: pytest.MonkeyPatch
) -> None:
    cml.install(monkeypatch)
    github_double.fault("slow", delay=0.5, times=2, methods=["POST"])
    gates = [
        threading.Thread(target=post, args=(GitHub(github_double.settings()), number, f"# gate {place}"))
        for place in range(2)
    ]
    for gate in gates:
        gate.start()
    for gate in gates:
        gate.join()

    assert len(cml.calls) == 2
    assert len(posted(github_double, number)) == 1


def test_the_longest_report_fits_and_a_longer_one_is_refused(
    github: GitHub, github_double: Double, number: int
) -> None:
    longest = "é" * report_length("weather")
    post(github, number, longest)

    assert len(posted(github_double, number)[0]) == BODY_LIMIT
    with pytest.raises(ValueError, match="expected at most"):
        post(github, number, f"{longest}é")


def test_a_forks_token_is_told_what_it_lacks(
    github_double: Double, number: int, cml: Cml, monkeypatch: pytest.MonkeyPatch
) -> None:
    cml.install(monkeypatch)

    with pytest.raises(ConfigurationError, match="pull_requests=write"):
        post(GitHub(github_double.settings(github_double.read_token)), number, "# passed")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--publsh=false", "report.md"],
        ["--target=pr/1", "--commit-sha=abc", "report.md"],
        ["--target=pr/1"],
        ["--driver=gitea", "report.md"],
    ],
)
def test_the_stand_in_refuses_options_that_cml_refuses(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "report.md").write_text("# passed")
    monkeypatch.chdir(tmp_path)

    assert main(["comment", "create", *arguments]) == 1
    shown = capsys.readouterr().err
    assert any(each in shown for each in ("Unknown argument", "exclusive", "Not enough", "Invalid values"))
