"""Which numbers are taken, as GitHub's refs have it: reserved for a release, or released.

A reservation (`refs/rps/releases/v1.2.0`) and a release (`refs/tags/v1.2.0`) are annotated tags. What they are of
stands in trailers at the end of their message, as https://git-scm.com/docs/git-interpret-trailers has them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from ci.release.numbering import Named
from ci.release.plan import Plan, number_of
from clients.github_releases import RESERVED, TAGS

_TRAILER = re.compile(r"(?P<key>[A-Z][A-Za-z0-9-]*): (?P<value>\S.*)")


def reservation_message(plan: Plan) -> str:
    return _message(f"{plan.challenge} {plan.tag} is being released", _of(plan))


def tag_message(plan: Plan, image: str) -> str:
    return _message(f"{plan.challenge} {plan.tag}", {**_of(plan), "Image": image})


def named(ref: str, sha: str, message: str) -> Named | None:
    """What a ref with an annotation says is taken; None for a ref that takes no number.

    A tag that people made takes its number, and says nothing of a model and an image.
    """
    released = ref.startswith(TAGS)
    if not released and not ref.startswith(RESERVED):
        return None
    number = number_of(ref.removeprefix(TAGS if released else RESERVED))
    if number is None:
        return None
    trailers = _trailers(message)
    return Named(
        number,
        trailers.get("Challenge", ""),
        sha,
        _number(trailers, "Model-Version") or 0,
        released,
        trailers.get("Image", ""),
        _number(trailers, "Withdraws"),
    )


def _of(plan: Plan) -> dict[str, str]:
    trailers = {
        "Challenge": plan.challenge,
        "Model-Version": str(plan.model.version),
        "Model-Run": plan.model.mlflow_run,
        "Dataset-MD5": plan.model.dataset_md5 or "unknown",
    }
    return trailers | ({"Withdraws": str(plan.withdraws)} if plan.withdraws is not None else {})


def _message(subject: str, trailers: Mapping[str, str]) -> str:
    lines = "\n".join(f"{key}: {value}" for key, value in trailers.items())
    return f"{subject}\n\n{lines}\n"


def _trailers(message: str) -> dict[str, str]:
    """Of the last paragraph."""
    last = message.strip().rpartition("\n\n")[2]
    found = (_TRAILER.fullmatch(line.strip()) for line in last.splitlines())
    return {each["key"]: each["value"] for each in found if each}


def _number(trailers: Mapping[str, str], key: str) -> int | None:
    told = trailers.get(key, "")
    return int(told) if told.isdecimal() else None
