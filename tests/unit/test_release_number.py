"""The number of a release, from real Git histories."""

from __future__ import annotations

from pathlib import Path

import pytest

from ci.release.code_history import History
from ci.release.numbering import (
    Named,
    after,
    changes_since,
    last_release,
    next_number,
    own,
    require_not_older,
)
from ci.release.plan import Number, number_of
from clients.errors import ConfigurationError, NotReleased
from tests.unit.test_policy import Repository


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "repository")


def committed(repository: Repository, *messages: str) -> str:
    for message in messages:
        repository.git("commit", "--quiet", "--allow-empty", "--cleanup=verbatim", "-m", message)
    return repository.git("rev-parse", "HEAD")


def released(number: str, sha: str, model_version: int = 1, challenge: str = "weather", tagged: bool = True) -> Named:
    found = number_of(number)
    assert found
    return Named(found, challenge, sha, model_version, tagged)


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        (["Tidy up"], "1.2.4"),
        (["fix: round halves up"], "1.2.4"),
        (["feat: forecast dew point", "fix: x"], "1.3.0"),
        (["feat(service)!: drop /v0"], "2.0.0"),
        (["refactor!: rename"], "2.0.0"),
        (["fix: x\n\nBREAKING CHANGE: the unit is kelvin"], "2.0.0"),
        (["fix: x\n\nBREAKING-CHANGE: the unit is kelvin"], "2.0.0"),
        (["fix: x\n\nthis is no BREAKING CHANGE: at all"], "1.2.4"),
        (["feat : not the form of it"], "1.2.4"),
        (["Feat: types are in any case"], "1.3.0"),
        (["feature: another type"], "1.2.4"),
        ([], "1.2.4"),
    ],
)
def test_the_number_follows_conventional_commits(repository, messages, expected):
    first = committed(repository, "feat!: begin")
    head = committed(repository, *messages)
    assert str(next_number([released("v1.2.3", first)], History(repository.path), head)) == expected


def test_the_first_release_is_1_0_0(repository):
    assert str(next_number([], History(repository.path), committed(repository, "feat!: begin"))) == "1.0.0"


def test_a_merge_counts_by_the_commits_that_it_brings(repository):
    first = committed(repository, "begin")
    repository.git("checkout", "--quiet", "-b", "dev")
    committed(repository, "feat: more")
    repository.git("checkout", "--quiet", "test")
    repository.git("merge", "--quiet", "--no-ff", "-m", "fix!: Merge pull request #1", "dev")
    head = repository.git("rev-parse", "HEAD")
    history = History(repository.path)
    assert str(next_number([released("v1.0.0", first)], history, head)) == "1.1.0"
    assert [commit.subject for commit in changes_since(released("v1.0.0", first), history, head)] == ["more"]


def test_a_number_that_is_taken_is_never_given_again(repository):
    first = committed(repository, "begin")
    head = committed(repository, "fix: x")
    taken = [
        released("v1.0.0", first),
        released("v1.0.1", head, 7, tagged=False),
        released("v1.0.2", head, 8, tagged=False),
    ]
    assert str(next_number(taken, History(repository.path), head)) == "1.0.3"


def test_an_interrupted_release_finds_its_own():
    a, b = "a" * 40, "b" * 40
    taken = [released("v1.0.0", a, 1), released("v1.0.1", b, 2, tagged=False)]
    assert own(taken, "weather", b, 2).number == Number(1, 0, 1)
    assert own(taken, "weather", b, 3) is None
    assert own(taken, "crypto", b, 2) is None
    assert own(taken, "weather", a, 1).number == Number(1, 0, 0)


def test_a_number_below_what_was_released_since_is_not_carried_on():
    a, b = "a" * 40, "b" * 40
    taken = [released("v1.0.1", a, 1), released("v1.0.2", b, 2), released("v1.0.1", a, 1, tagged=False)]
    assert own(taken, "weather", a, 1) is None, "a roll-back to the same model is a release of its own"
    other = [released("v1.0.1", a, 1, tagged=False), released("v1.0.2", b, 2, challenge="crypto")]
    assert own(other, "weather", a, 1).number == Number(1, 0, 1), "another challenge's release is none of ours"


def test_an_older_commit_is_not_released_after_a_newer_one(repository):
    old = committed(repository, "begin")
    new = committed(repository, "more")
    history = History(repository.path)
    with pytest.raises(NotReleased, match=r"older than v1\.0\.0"):
        require_not_older(released("v1.0.0", new), history, old)
    require_not_older(released("v1.0.0", new), history, new)
    require_not_older(released("v1.0.0", old), history, new)
    require_not_older(None, history, old)


def test_the_last_release_is_the_highest_number_not_the_last_in_the_list():
    taken = [released("v1.10.0", "a" * 40), released("v1.9.0", "b" * 40), released("v2.0.0", "c" * 40, tagged=False)]
    last = last_release(taken)
    assert last is not None
    assert last.number == Number(1, 10, 0)
    assert last_release(taken, "crypto") is None


@pytest.mark.parametrize("tag", ["1.2.3", "v1.2", "v01.2.3", "v1.2.3-rc.1", "v1.2.3\n", "release", ""])
def test_other_tags_are_no_numbers(tag):
    assert number_of(tag) is None


def test_a_shallow_checkout_is_refused(repository, tmp_path):
    committed(repository, "a", "b")
    shallow = tmp_path / "shallow"
    repository.git("clone", "--quiet", "--depth", "1", f"file://{repository.path}", str(shallow))
    History(repository.path).require_whole()
    with pytest.raises(ConfigurationError, match="fetch-depth: 0"):
        History(shallow).require_whole()


def test_what_is_part_of_a_commit(repository):
    first = committed(repository, "a")
    second = committed(repository, "b")
    history = History(repository.path)
    assert history.is_part(first, second)
    assert history.is_part(second, second)
    assert not history.is_part(second, first)
    assert not history.is_part("f" * 40, second)
    assert not history.is_part("--all", second)


@pytest.mark.parametrize("kind", ["other", "fix"])
def test_all_but_features_and_breaks_is_a_patch(kind):
    from ci.release.code_history import Commit

    assert after(Number(0, 9, 9), [Commit("a" * 40, "x", kind)]) == Number(0, 9, 10)
