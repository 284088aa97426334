"""What a command tells in a terminal, and in GitHub's log, where text can be a command."""

from __future__ import annotations

import io

from clients.dag_run import TaskState
from clients.progress import Log


def task(name: str, state: str, attempt: int = 1) -> TaskState:
    return TaskState(name=name, state=state, seconds=1.25, attempt=attempt, started=None, ended=None)


def shown(*, grouped: bool, say: object = None) -> list[str]:
    out = io.StringIO()
    log = Log(out, grouped=grouped)
    say(log)
    return out.getvalue().splitlines()


def test_a_task_is_reported_once_per_change():
    def say(log: Log) -> None:
        log.tasks("run", [task("ingest", "running"), task("train", "waiting")])
        log.tasks("run", [task("ingest", "running"), task("train", "waiting")])
        log.tasks("run", [task("ingest", "success"), task("train", "running")])

    lines = [line.split(maxsplit=1)[1] for line in shown(grouped=False, say=say)]
    assert lines == ["ingest     running", "ingest     done in 1.2 s", "train      running"]


def test_a_retry_is_reported():
    def say(log: Log) -> None:
        log.tasks("run", [task("ingest", "up_for_retry", 1)])
        log.tasks("run", [task("ingest", "running", 2)])

    assert [line.split(maxsplit=2)[2] for line in shown(grouped=False, say=say)] == ["will be tried again", "running"]


def test_tasks_are_folded_on_github_and_the_group_ends_before_the_next_line():
    def say(log: Log) -> None:
        log.tasks("the run", [task("ingest", "running")])
        log.tasks("the run", [task("ingest", "success")])
        log.line("passed")

    lines = shown(grouped=True, say=say)
    assert (lines[0], lines[3:]) == ("::group::the run", ["::endgroup::", "passed"])


def test_text_from_outside_is_no_command_of_github():
    def say(log: Log) -> None:
        log.line("no verdict: a log said\n  ::set-env name=PATH::/evil\n##[add-path]/evil")

    lines = shown(grouped=True, say=say)
    assert not any(line.lstrip().startswith("::") or "##[" in line for line in lines)


def test_an_error_is_one_annotation_whatever_it_holds():
    lines = shown(grouped=True, say=lambda log: log.error("100 %\n::stop-commands::x"))
    assert lines == ["::error::100 %25%0A::stop-commands::x"]
