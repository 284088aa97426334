"""The issue's body: what it says first, what it keeps, and that nothing breaks out of it or off it."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from ci.markdown import BODY_LIMIT, length
from ci.retrain.drift_issue import HISTORY, Answer, Entry, read_body, write_body
from ci.retrain.limits import Wait
from ci.retrain.offer import Offer
from ci.retrain.trigger import Trigger
from records.judgement import Judgement
from tests.judgements import blocked, data_rejected, passing, task_failed, violation

AT = datetime(2026, 11, 23, 12, tzinfo=UTC)
HOSTILE = (
    "</details>--><!-- rps:notes --><script>alert(1)</script> @everyone | ![x](http://evil) `x` #1 ::error::x\n# big"
)
REPORT = "## The report\n\nwith its tables"


def answer(judgement: Judgement | None = None, *, event: str = "e1", at: datetime = AT, **changes: object) -> Answer:
    trigger = Trigger(
        event=event, reason="drift", drift="concept", alert="ConceptDrift", summary="It errs more.", version="6",
        started=AT - timedelta(hours=3),
    )  # fmt: skip
    made = Answer(
        challenge="weather",
        trigger=trigger,
        repository_url="https://github.com/ana/weather",
        workflow_url="https://github.com/ana/weather/actions/runs/7",
        at=at,
        judgement=judgement,
    )
    return replace(made, **changes)


def body(given: Answer, before: str = "", report: str = REPORT) -> str:
    return write_body(given, read_body(before, "weather"), report).body


ASKED = Offer("asked", "2026-11-23 12:10 UTC")


def test_a_release_that_was_asked_for_closes_the_issue_and_says_where_to_agree() -> None:
    given = answer(passing(), offer=ASKED)
    message = body(given)
    assert not given.needs_a_person
    assert "✅ Retrained, and passed" in message
    assert "the concept" in message
    assert "of version 6" in message
    assert "2026-11-23 09:00 UTC" in message
    assert "RMSE 1.93" in message
    assert "approval in the environment `production`" in message
    assert "/ana/weather/actions/workflows/release.yml" in message


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        (answer(blocked()), ["❌", "worse than production", "production stays as it is", "a person must look"]),
        (answer(data_rejected()), ["⛔", "retraining cannot fix the data", "| rule | where | what |"]),
        (answer(task_failed()), ["⚠️", "no verdict", "a person must look"]),
        (answer(passing(), offer=Offer("failed", "GitHub answers 403")), ["not offered", "403", "by hand"]),
        (answer(passing(), offer=Offer("withdrawn", "rolled back")), ["withdrawn", "rolled back"]),
        (
            answer(wait=Wait("a cool-down of 6 h after each retraining", AT + timedelta(hours=4))),
            ["⏸️", "a cool-down of 6 h", "at 2026-11-23 16:00 UTC", "a person must look"],
        ),
    ],
)
def test_whatever_needs_a_person_keeps_the_issue_open_and_says_why(given: Answer, parts: list[str]) -> None:
    message = body(given)
    assert given.needs_a_person
    for part in (*parts, "docs/how-to/answer-drift.md"):
        assert part in message


def test_a_stuck_sensor_is_reported_with_what_the_quality_gate_found() -> None:
    stuck = violation(rule="stuck", series="JFK", column="temperature", message="the same value for 26 hours")
    failure = msgspec.structs.replace(data_rejected().failure, violations=(stuck,))
    message = body(answer(msgspec.structs.replace(data_rejected(), failure=failure)))
    assert "| `stuck` | `JFK`, `temperature` | the same value for 26 hours |" in message


def test_the_last_retrainings_are_kept_the_newest_first_and_each_event_once() -> None:
    message = ""
    for number in range(HISTORY + 3):
        at = AT + timedelta(days=number)
        message = body(answer(blocked(), event=f"e{number}", at=at), message)
    message = body(
        answer(passing(), event=f"e{HISTORY + 2}", at=AT + timedelta(days=HISTORY + 2), offer=ASKED), message
    )
    history = read_body(message, "weather").history
    assert [entry.event for entry in history] == [f"e{number}" for number in range(HISTORY + 2, 2, -1)]
    assert [entry.outcome for entry in history[:2]] == ["passed", "blocked"]
    assert message.count("| blocked |") == HISTORY - 1
    assert message.count("rps:history") == 1


def test_a_limit_names_the_last_retraining_and_keeps_the_list() -> None:
    before = body(answer(passing(), offer=ASKED))
    message = body(answer(event="e2", wait=Wait("a cool-down", AT)), before, "")
    assert "**The last retraining**" in message
    assert "RMSE 1.93" in message
    assert [entry.event for entry in read_body(message, "weather").history] == ["e1"]


def test_written_from_its_own_result_it_is_the_same() -> None:
    once = body(answer(blocked()), "A word before\n")
    assert body(answer(blocked()), once) == once
    assert body(answer(blocked()), once.replace("\n", "\r\n")).replace("\r\n", "\n") == once


def test_what_people_write_above_and_below_stays() -> None:
    first = body(answer(blocked()))
    message = body(
        answer(passing(), event="e2", offer=ASKED), f"Mine, above.\n\n{first}\n\nSensor 3 is new.\n\n- bea\n"
    )
    assert message.startswith("Mine, above.\n")
    assert message.endswith("\n\nSensor 3 is new.\n\n- bea\n")
    assert message.count("<!-- rps:drift weather -->") == 1


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text.replace("<!-- rps:notes -->", ""),
        lambda text: text.replace("<!-- rps:drift weather -->", ""),
        lambda text: "All gone. My own text.",
        lambda text: "<!-- rps:notes -->" + text.replace("<!-- rps:notes -->", ""),
    ],
)
def test_where_the_marks_are_gone_everything_is_kept_once(spoil) -> None:
    before = spoil(body(answer(blocked())) + "My own text.")
    message = body(answer(passing(), event="e2", offer=ASKED), before)
    assert "My own text." in message
    assert "✅ Retrained, and passed" in message
    again = body(answer(passing(), event="e3", offer=ASKED), message)
    assert again.count("My own text.") == 1
    assert len(again) < len(message) + 1000


@pytest.mark.parametrize(
    "history", ["[]", "{", '[{"event": 1}]', "null", '[{"event":"e","at":"x","why":"","outcome":"passed","told":""}]']
)
def test_a_list_that_cannot_be_read_starts_anew(history: str) -> None:
    before = re.sub(r"rps:history .* -->", lambda _: f"rps:history {history} -->", body(answer(blocked())))
    assert [entry.event for entry in read_body(body(answer(blocked(), event="e2"), before), "weather").history] == [
        "e2"
    ]


def test_nothing_that_others_wrote_breaks_out() -> None:
    trigger = replace(answer().trigger, summary=HOSTILE, alert=HOSTILE, version=HOSTILE)
    hostile = msgspec.structs.replace(blocked(), summary=HOSTILE, model_version=HOSTILE)
    message = body(answer(hostile, trigger=trigger))
    assert message.count("<!-- rps:notes -->") == 1
    assert message.rstrip().endswith("<!-- rps:notes -->")
    shown = re.sub(r"<!-- rps:history .*? -->", "", message)
    for part in ("<script", "@everyone", "](http://evil", "\n# big", "\n::error::"):
        assert part not in shown
    assert "@everyone" not in message
    (entry,) = read_body(message, "weather").history
    assert "script" in entry.summary
    assert body(answer(event="e2", wait=Wait("a cool-down", AT)), message, "").count("<script") == 0


def test_what_somebody_has_put_into_the_hidden_list_is_only_text() -> None:
    entry = Entry(event="e", at=AT, why=HOSTILE * 90, outcome="passed", summary=HOSTILE * 90, url="javascript:alert(1)")
    encoded = msgspec.json.encode([entry] * 50).decode().replace("<", "\\u003c").replace(">", "\\u003e")
    before = re.sub(r"rps:history .* -->", lambda _: f"rps:history {encoded} -->", body(answer(blocked())))
    message = body(answer(blocked(), event="e2"), before)
    assert len(read_body(message, "weather").history) == HISTORY
    assert "](javascript" not in message
    assert "<script" not in message
    assert length(message) <= BODY_LIMIT


def test_a_report_that_is_too_long_is_left_out_with_its_place() -> None:
    message = body(answer(blocked()), report="x" * BODY_LIMIT)
    assert length(message) <= BODY_LIMIT
    assert "the workflow's summary" in message
    assert "actions/runs/7" in message


def test_notes_that_leave_no_room_are_moved_whole_and_none_is_lost() -> None:
    notes = "n" * (BODY_LIMIT - 600)
    written = write_body(
        answer(blocked()), read_body(f"{body(answer(blocked()), report='')}{notes}", "weather"), REPORT
    )
    assert length(written.body) <= BODY_LIMIT
    assert written.aside == notes
    assert write_body(answer(blocked()), read_body(written.body, "weather"), REPORT).aside == ""
