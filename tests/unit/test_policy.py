"""Whose rules judge: the base branch's, whatever the judged commit says, and what it would change is shown."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ci.gate.policy import challenges, commit_of, read_policy
from clients.errors import ConfigurationError
from clients.git import Git
from forecasting.challenge.schema import Gate
from records.judgement import PolicyChange
from tests.runs import ROOT


class Repository:
    """A Git repository whose commits are made of texts of challenges."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True)
        self.git("init", "--quiet", "--initial-branch=test")

    def git(self, *arguments: str) -> str:
        return Git(self.path, settings={"user.name": "a", "user.email": "a@b.example"}).text(*arguments)

    def commit(self, **texts: str | None) -> str:
        """A commit in which each challenge has this text, or is gone."""
        folder = self.path / "challenges"
        folder.mkdir(exist_ok=True)
        for name, text in texts.items():
            file = folder / f"{name}.toml"
            file.unlink(missing_ok=True)
            if text is not None:
                file.write_text(text, encoding="utf-8")
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "-m", "x")
        return self.git("rev-parse", "HEAD")


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "repository")


def gate(**values: str) -> str:
    lines = "\n".join(f"{key} = {value}" for key, value in values.items())
    return f'title = "Hourly temperature"\n\n[gate]\n{lines}\n'


def test_a_pull_request_is_judged_by_the_rules_of_its_base(repository):
    base = repository.commit(weather=gate(max_regression="0.01", strict="true"))
    head = repository.commit(weather=gate(max_regression="0.5", strict="false", coverage="[0.0, 1.0]"))
    policy = read_policy(repository.path, "weather", head=head, base=base, base_name="test")
    assert policy.gate == Gate(max_regression=0.01, strict=True)
    assert policy.title == "Hourly temperature"
    assert policy.origin == f"test at {base[:7]}"
    assert policy.changes == (
        PolicyChange(key="gate.max_regression", base="0.01", head="0.5"),
        PolicyChange(key="gate.strict", base="true", head="false"),
        PolicyChange(key="gate.coverage", base="[0.85, 0.95]", head="[0.0, 1.0]"),
    )


def test_what_is_not_committed_has_no_part(repository):
    base = repository.commit(weather=gate(max_regression="0.01"))
    (repository.path / "challenges" / "weather.toml").write_text(gate(max_regression="0.9"), encoding="utf-8")
    policy = read_policy(repository.path, "weather", head="HEAD", base=base, base_name="test")
    assert (policy.gate.max_regression, policy.changes) == (0.01, ())


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"max_slice_regression": "0.10"}, {"max_slice_regression": "1e-1"}),
        ({}, {"max_regression": repr(Gate().max_regression)}),
        ({"max_regression": repr(Gate().max_regression)}, {}),
        ({"max_bundle_bytes": "30_000_000"}, {"max_bundle_bytes": "30000000"}),
        ({"max_prediction_time_ratio": "3.0"}, {"max_prediction_time_ratio": "3"}),
        ({"coverage": "[0.0, 1.0]"}, {"coverage": "[\n  0,\n  1, # all of it\n]"}),
    ],
)
def test_another_way_to_write_the_same_is_no_change(repository, before, after):
    base, head = repository.commit(weather=gate(**before)), repository.commit(weather=gate(**after))
    assert read_policy(repository.path, "weather", head=head, base=base, base_name="test").changes == ()


def test_leaving_out_a_key_is_a_change_to_its_default(repository):
    base = repository.commit(weather=gate(max_regression="0.001"))
    head = repository.commit(weather='title = "x"\n')
    (change,) = read_policy(repository.path, "weather", head=head, base=base, base_name="test").changes
    assert change == PolicyChange(key="gate.max_regression", base="0.001", head=repr(Gate().max_regression))


def test_a_key_that_only_the_judged_commit_has_is_shown_on_one_line_whatever_it_is(repository):
    base = repository.commit(weather=gate())
    head = repository.commit(
        weather=gate(strict="1", note='"""<b>\n| x"""', more="{ a = [1, 2.5], b = true }", day="2013-01-02")
    )
    changes = read_policy(repository.path, "weather", head=head, base=base, base_name="test").changes
    assert [(change.key, change.base, change.head) for change in changes] == [
        ("gate.strict", "false", "1"),
        ("gate.note", "", r'"<b>\n| x"'),
        ("gate.more", "", "{ a = [1, 2.5], b = true }"),
        ("gate.day", "", "2013-01-02"),
    ]


def test_a_challenge_that_is_new_is_judged_by_the_defaults(repository):
    base = repository.commit(weather=gate(max_regression="0.5"))
    head = repository.commit(crypto=gate(max_regression="0.9"))
    policy = read_policy(repository.path, "crypto", head=head, base=base, base_name="test")
    assert policy.gate == Gate()
    assert policy.origin == f"the defaults: test at {base[:7]} has no challenges/crypto.toml"
    assert [change.key for change in policy.changes] == ["gate.max_regression"]


def test_the_rest_of_the_bases_file_may_be_of_another_schema(repository):
    base = repository.commit(weather=f"{gate(strict='true')}\n[from_another_time]\nkey = 1\n")
    head = repository.commit(weather=gate(strict="true"))
    assert read_policy(repository.path, "weather", head=head, base=base, base_name="test").gate.strict


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (gate(max_regresion="0.1"), r"challenges/weather\.toml of test at .*unknown field `max_regresion`.*Mend"),
        (gate(max_regression='"much"'), r"gate\.max_regression: expected `float`, got `str`"),
        (gate(coverage="[0.5, 2]"), r"gate\.coverage\[1\]: expected `float` <= 1\.0"),
        (gate(significance="nan"), r"gate\.significance: expected `float`"),
        ("gate = 3\n", r"gate: expected `object`, got `int`; found 3"),
        ("[gate\n", "not valid TOML"),
    ],
)
def test_a_policy_that_cannot_be_read_judges_nothing(repository, text, shown):
    base, head = repository.commit(weather=text), repository.commit(weather=gate())
    with pytest.raises(ConfigurationError, match=shown):
        read_policy(repository.path, "weather", head=head, base=base, base_name="test")


def test_a_base_without_any_rules_judges_by_the_defaults_and_says_so(repository):
    base, head = repository.commit(weather='title = "x"\n'), repository.commit(weather=gate())
    policy = read_policy(repository.path, "weather", head=head, base=base, base_name="test")
    assert (policy.gate, policy.origin) == (Gate(), f"the defaults: test at {base[:7]} has no table [gate]")


def test_a_challenge_that_the_judged_commit_lacks_is_reported_with_those_that_it_has(repository):
    base = repository.commit(weather=gate(), crypto=gate(), transit=gate())
    head = repository.commit(weather=None)
    with pytest.raises(ConfigurationError, match=r"weather\.toml is not in commit .*; found: crypto, transit"):
        read_policy(repository.path, "weather", head=head, base=base, base_name="test")


def test_a_link_in_place_of_a_challenge_is_not_followed(repository, tmp_path):
    base = repository.commit(weather=gate())
    file = repository.path / "challenges" / "weather.toml"
    file.unlink()
    file.symlink_to("other.toml")
    head = repository.commit(other=gate())
    assert challenges(repository.path, head) == ("other",)
    with pytest.raises(ConfigurationError, match="found: other"):
        read_policy(repository.path, "weather", head=head, base=base, base_name="test")


@pytest.mark.parametrize("name", ["../weather", "weather.toml", "--help", "Weather", ""])
def test_a_name_that_no_challenge_can_have_is_not_looked_for(repository, name):
    base = repository.commit(weather=gate())
    with pytest.raises(ConfigurationError, match="found: weather"):
        read_policy(repository.path, name, head=base, base=base, base_name="test")


def test_a_shallow_checkout_is_told_what_to_fetch(repository, tmp_path):
    base, head = repository.commit(weather=gate()), repository.commit(weather=gate(strict="true"))
    shallow = tmp_path / "shallow"
    repository.git("clone", "--quiet", "--depth=1", f"file://{repository.path}", str(shallow))
    assert challenges(shallow, head) == ("weather",)
    with pytest.raises(ConfigurationError, match=f"{base}.*fetch-depth: 0"):
        read_policy(shallow, "weather", head=head, base=base, base_name="test")


@pytest.mark.parametrize("revision", ["--all", "-n1", "--output=x", "HEAD; touch x", "$(touch x)", "x\ny", "a\0b", ""])
def test_a_branch_that_is_called_like_an_option_or_a_command_is_only_a_name(repository, revision):
    repository.commit(weather=gate())
    with pytest.raises(ConfigurationError):
        commit_of(repository.path, revision)
    assert not (repository.path / "x").exists()


def test_a_branch_that_starts_with_a_dash_is_found_by_its_name(repository):
    base = repository.commit(weather=gate(strict="true"))
    repository.git("update-ref", "refs/heads/--exec=x", base)
    assert commit_of(repository.path, "--exec=x") == base


def test_a_folder_that_is_no_repository_is_reported(tmp_path):
    with pytest.raises(ConfigurationError, match="not a git repository"):
        challenges(tmp_path, "HEAD")


def test_a_commit_without_challenges_has_none(repository):
    assert challenges(repository.path, repository.commit()) == ()


def test_this_repositorys_policies_are_listed_without_loading_a_training_library():
    program = (
        "import sys, pathlib, ci.gate.policy as p; print(*p.challenges(pathlib.Path('.'), 'HEAD'), '|', *sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    names, _, modules = done.stdout.partition("|")
    assert "weather" in names.split()
    assert not {"pipelines", "pandas", "mlflow", "sklearn"} & set(modules.split())
