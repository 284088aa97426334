"""The rules that a candidate is judged by: those of the base branch, whatever the judged commit makes of them."""

from __future__ import annotations

import contextlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from clients.errors import ConfigurationError
from clients.git import Git, message_of
from forecasting.challenge.schema import ChallengeError, Gate, parse_part, parse_table
from records.judgement import PolicyChange

_FOLDER = "challenges"
_CHALLENGE = re.compile(r"[a-z][a-z0-9_]{0,62}")
_REGULAR_FILES = (b"100644", b"100755")


@dataclass(frozen=True)
class Policy:
    """The policy that judges, and the challenge's title in the judged commit."""

    title: str
    gate: Gate
    origin: str
    """The branch and commit that it was read from, or why it is another."""
    changes: tuple[PolicyChange, ...]
    """What the judged commit would make of it, which has no part in the verdict."""


def read_policy(repository: Path, challenge: str, *, head: str, base: str, base_name: str) -> Policy:
    """The policy of a challenge in commit ``base``, which a reader knows as ``base_name``, and how ``head`` differs.

    Only the table `[gate]` of the base's file is read: its other tables may be of an older or newer schema. A challenge
    that the base does not have yet is judged by the defaults.
    Raises ConfigurationError: a commit is not in this checkout, the judged commit has no such challenge, or a policy
    cannot be read.
    """
    head_commit, base_commit = commit_of(repository, head), commit_of(repository, base)
    known, file = challenges(repository, head_commit), f"{_FOLDER}/{challenge}.toml"
    if challenge not in known:
        found = ", ".join(known) or "none"
        raise ConfigurationError(f"{file} is not in commit {head_commit[:7]}; found: {found}")
    title, proposed = _read(repository, challenge, head_commit)
    source = f"{base_name} at {base_commit[:7]}"
    gate, origin = Gate(), source
    if challenge not in challenges(repository, base_commit):
        origin = f"the defaults: {source} has no {file}"
    elif table := _read(repository, challenge, base_commit)[1]:
        try:
            gate = parse_part({"gate": table}, "gate", Gate, f"{file} of {source}", default=gate)
        except ChallengeError as error:
            raise ConfigurationError(f"{error}. Mend the policy in {base_name} first: it is what judges.") from error
    else:
        origin = f"the defaults: {source} has no table [gate]"
    return Policy(title, gate, origin, _changes(gate, proposed))


def challenges(repository: Path, commit: str) -> tuple[str, ...]:
    """The challenges of a commit, by name, in order. Raises ConfigurationError when it is not in this checkout."""
    listed = Git(repository).output("ls-tree", "--full-tree", "-z", commit_of(repository, commit), f"{_FOLDER}/")
    names = []
    for entry in listed.split(b"\0"):
        kind, _, path = entry.partition(b"\t")
        name = Path(os.fsdecode(path)).name.removesuffix(".toml")
        # A link could lead anywhere, and is nobody's way to write a challenge.
        if kind.split(b" ")[0] in _REGULAR_FILES and path.endswith(b".toml") and _CHALLENGE.fullmatch(name):
            names.append(name)
    return tuple(sorted(names))


def commit_of(repository: Path, revision: str) -> str:
    """The full name of a commit: nothing that a branch may be called reaches another command of Git.

    Raises ConfigurationError when it is not in this checkout.
    """
    done = Git(repository).run("rev-parse", "--verify", "--end-of-options", f"{revision}^{{commit}}")
    if done.returncode:
        hint = "Check out the whole history (actions/checkout with fetch-depth: 0), or fetch it."
        raise ConfigurationError(
            f"the commit {revision!r} is not in the checkout {repository} ({message_of(done)}). {hint}"
        )
    return done.stdout.decode("ascii").strip()


def _read(repository: Path, challenge: str, commit: str) -> tuple[str, dict[str, Any]]:
    """The title, and the table `[gate]` as it is written; empty when there is none. commit: its full name."""
    where = f"{_FOLDER}/{challenge}.toml of commit {commit[:7]}"
    content = Git(repository).output("cat-file", "blob", f"{commit}:{_FOLDER}/{challenge}.toml")
    try:
        whole = parse_table(content, where)
        title = parse_part(whole, "title", str, where, default=challenge)
        return title, parse_part(whole, "gate", dict[str, Any], where, default={})
    except ChallengeError as error:
        raise ConfigurationError(str(error)) from error


def _changes(judging: Gate, proposed: dict[str, Any]) -> tuple[PolicyChange, ...]:
    """Every key with another meaning in ``proposed``; one that is left out has its default's."""
    before = msgspec.to_builtins(judging)
    changes = []
    for key, value in {**msgspec.to_builtins(Gate()), **proposed}.items():
        with contextlib.suppress(msgspec.ValidationError):
            read = msgspec.to_builtins(msgspec.convert({key: value}, Gate))
            if read[key] == before[key]:  # though perhaps written in another way, such as 1 for 1.0
                continue
        base = _toml(before[key]) if key in before else ""
        changes.append(PolicyChange(key=f"gate.{key}", base=base, head=_toml(value)))
    return tuple(changes)


def _toml(value: object) -> str:
    """A value as TOML writes it, on one line."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)  # TOML's basic strings escape as JSON's do
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{key} = {_toml(each)}' for key, each in value.items())} }}"
    return str(value)
