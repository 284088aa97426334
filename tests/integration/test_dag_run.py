"""Runs of small DAGs on a real Airflow, with faults of the way to it, of Airflow itself, and of people's hands."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import httpx
import psutil
import pytest
from airflow_client import client

from clients.dag_run import CLEARED, Airflow, DagRun, TaskState, busy_seconds
from clients.errors import Cancelled, ConfigurationError, NoVerdict
from clients.settings import AirflowSettings
from doubles.airflow_faults import AirflowFaults, airflow_behind_faults
from tests.conftest import wait_while
from tests.integration.airflow_server import DAGS, AirflowServer

DEADLINE_SECONDS = 60.0


class Enough(Exception):
    """A test has seen what it waited for."""


@pytest.fixture(scope="module")
def server(airflow_server: AirflowServer) -> AirflowServer:
    return airflow_server


@pytest.fixture(scope="module")
def airflow(server: AirflowServer) -> Airflow:
    return Airflow(server.settings)


@pytest.fixture(scope="module")
def ended(airflow: Airflow) -> dict[str, DagRun]:
    """Runs that were followed to their ends: one that retried, one that failed, one that others will follow, and three
    that people will touch, each for one test.
    """
    codes = {"retried": "75", "failed": "64", "old": "0", "cleared": "0", "task_cleared": "0", "task_set": "0"}
    runs = {name: airflow.attach_or_start("steps", name, {"code": code}) for name, code in codes.items()}
    for run in runs.values():
        follow(run)
    return runs


@pytest.fixture(scope="module")
def held(airflow: Airflow) -> Iterator[DagRun]:
    """A run that waits; it is cancelled in the end."""
    with cancelled_after(airflow.attach_or_start("steps", fresh("held"), {"hold": "240"})) as run:
        yield run


@pytest.fixture
def faults(server: AirflowServer) -> Iterator[AirflowFaults]:
    with airflow_behind_faults(server.settings.url) as proxy:
        yield proxy


def fresh(name: str) -> str:
    return f"{name}-{secrets.token_hex(3)}"


def follow(run: DagRun) -> list[list[TaskState]]:
    return list(run.changes(DEADLINE_SECONDS))


def behind(faults: AirflowFaults, server: AirflowServer, notes: list[str] | None = None, **options: float) -> Airflow:
    """Our Airflow, reached through the proxy."""
    notes = [] if notes is None else notes
    return Airflow(replace(server.settings, url=faults.url), note=notes.append, **options)


def attached(airflow: Airflow, held: DagRun) -> DagRun:
    run = airflow.attach_or_start(held.dag_id, held.run_id.partition("__")[0], {})
    assert (run.run_id, run.attached) == (held.run_id, True)
    return run


def watched(run: DagRun, polls: int) -> None:
    """Follow the run for that many looks at it."""
    looks = iter(range(polls))

    def look() -> None:
        if next(looks, None) is None:
            raise Enough

    with pytest.raises(Enough):
        list(run.changes(DEADLINE_SECONDS, on_poll=look))


@contextmanager
def cancelled_after(run: DagRun) -> Iterator[DagRun]:
    try:
        yield run
    finally:
        run.cancel()


def runs_of(airflow: Airflow, dag_id: str, stem: str) -> list[str]:
    offset, found = 0, []
    while page := airflow.api.call(airflow.api.runs.get_dag_runs, dag_id, offset=offset).dag_runs:
        found += [run.dag_run_id for run in page if run.dag_run_id.startswith(stem)]
        offset += len(page)
    return found


# A run's course


def test_a_run_is_followed_task_by_task_through_a_retry_to_its_end(ended: dict[str, DagRun]) -> None:
    run = ended["retried"]
    work, end = run.tasks
    assert (run.run_id, run.state, run.attached) == ("retried__1", "success", False)
    assert (work.name, work.state, end.name, end.state) == ("work", "success", "end", "success")
    assert end.attempt > 1
    assert all(task.started and task.ended and task.ended > task.started for task in run.tasks)
    assert run.log_url(end) == f"{run.url}/tasks/end?try_number={end.attempt}"
    assert f"attempt {end.attempt}" in run.log(end)


def test_a_failed_run_names_the_task_and_its_log_ends_with_what_was_raised(ended: dict[str, DagRun]) -> None:
    run = ended["failed"]
    assert run.state == "failed"
    end = run.tasks[-1]
    assert (end.name, end.state) == ("end", "failed")
    log = run.log(end)
    assert log[-1] == (f"AirflowFailException: exit code 64, wrong use or configuration: attempt {end.attempt}")
    assert not [line for line in log if line.startswith("::")]


def test_a_task_that_never_ran_has_no_log(held: DagRun) -> None:
    assert held.log(TaskState("end", "upstream_failed", 0.0, 0, None, None)) == []


def test_a_log_that_cannot_be_read_says_why(ended: dict[str, DagRun]) -> None:
    shown = ended["retried"].log(TaskState("end", "failed", 0.0, 7, None, None))
    assert len(shown) == 1
    assert "404" in shown[0]


def test_a_rerun_attaches_to_a_run_that_succeeded_and_is_fresh(airflow: Airflow, ended: dict[str, DagRun]) -> None:
    again = airflow.attach_or_start("steps", "retried", {}, not_before=datetime.now(UTC) - timedelta(minutes=30))
    assert (again.run_id, again.attached) == ("retried__1", True)
    assert follow(again)[-1] == ended["retried"].tasks


def test_a_run_that_succeeded_too_long_ago_or_failed_is_followed_by_the_next_attempt(
    airflow: Airflow, ended: dict[str, DagRun]
) -> None:
    assert ended["old"].state == "success"
    for stem, not_before in (("old", datetime.now(UTC)), ("failed", None)):
        with cancelled_after(airflow.attach_or_start("steps", stem, {}, not_before=not_before)) as run:
            assert (run.run_id, run.attached) == (f"{stem}__2", False)
            # What was cancelled gives way to a third.
            assert airflow.attach_or_start("steps", stem, {}).run_id == f"{stem}__2"
        with cancelled_after(airflow.attach_or_start("steps", stem, {})) as third:
            assert third.run_id == f"{stem}__3"


def test_two_callers_at_once_start_one_run(server: AirflowServer, faults: AirflowFaults) -> None:
    # Both have seen that there is no run before either asks Airflow to start one.
    faults.switch_on(delay_seconds=1.0, method="POST", path="/dagRuns$")
    stem = fresh("together")

    def call(_: int) -> DagRun:
        return behind(faults, server).attach_or_start("steps", stem, {"hold": "60"})

    with ThreadPoolExecutor(2) as callers:
        runs = list(callers.map(call, range(2)))
    with cancelled_after(runs[0]):
        assert {run.run_id for run in runs} == {f"{stem}__1"}
        assert sorted(run.attached for run in runs) == [False, True]
        assert sum(asked.startswith("POST") and asked.endswith("/dagRuns") for asked in faults.asked) >= 2


def test_parameters_that_airflow_refuses_are_reported(airflow: Airflow) -> None:
    with pytest.raises(ConfigurationError, match=r"would not start .* of the DAG steps: 400"):
        airflow.start("steps", fresh("refused"), {"hold": 3})  # a number where a text belongs


def test_seconds_at_work_count_tasks_side_by_side_once() -> None:
    noon = datetime(2026, 1, 1, 12, tzinfo=UTC)

    def task(start: int, end: int | None) -> TaskState:
        ended = None if end is None else noon + timedelta(seconds=end)
        return TaskState("any", "success", 0.0, 1, noon + timedelta(seconds=start), ended)

    waiting = TaskState("waiting", "waiting", 0.0, 0, None, None)
    assert busy_seconds([task(20, 30), task(0, 10), task(5, 12), task(6, 7), task(11, 13), waiting]) == 23
    assert busy_seconds([task(20, 30), task(0, 10)], since=noon + timedelta(seconds=8)) == 12
    assert busy_seconds([]) == 0
    running = replace(task(0, None), started=datetime.now(UTC) - timedelta(seconds=5))
    assert busy_seconds([running]) == pytest.approx(5, abs=1)


# Faults on the way to Airflow


@pytest.mark.parametrize(
    "fault",
    [
        {"status": 500},
        {"status": 503},
        {"status": 429},
        {"status": 404},
        {"status": 200},
        {"status": 200, "body": "null"},
        {"cut": "before"},
        {"cut": "after"},
    ],
    ids=str,
)
def test_a_passing_fault_is_waited_out_and_reported_once(
    server: AirflowServer, faults: AirflowFaults, held: DagRun, fault: dict[str, object]
) -> None:
    notes: list[str] = []
    run = attached(behind(faults, server, notes), held)
    faults.switch_on(times=2, **fault)
    watched(run, polls=3)
    assert run.state in {"queued", "running"}
    assert len(notes) == 2
    assert f"Airflow at {faults.url} gives no good answer, waiting up to 120 s" in notes[0]
    assert "Airflow answers again" in notes[1]


@pytest.mark.parametrize("fault", [{"status": 500}, {"cut": "before"}, {"delay_seconds": 2.0}], ids=str)
def test_a_fault_that_lasts_longer_than_the_grace_ends_the_watch(
    server: AirflowServer, faults: AirflowFaults, held: DagRun, fault: dict[str, object]
) -> None:
    run = attached(behind(faults, server, grace_seconds=1.0, request_seconds=0.5), held)
    faults.switch_on(**fault)
    with pytest.raises(NoVerdict, match=f"{faults.url} gave no good answer for . s"):
        follow(run)


def test_a_slow_airflow_is_no_fault(server: AirflowServer, faults: AirflowFaults, held: DagRun) -> None:
    notes: list[str] = []
    faults.switch_on(delay_seconds=0.5)
    watched(attached(behind(faults, server, notes, grace_seconds=0.1), held), polls=1)
    assert notes == []


def test_an_airflow_that_is_down_is_reported_with_its_address(server: AirflowServer) -> None:
    airflow = Airflow(replace(server.settings, url="http://127.0.0.1:9"), grace_seconds=1.0)
    with pytest.raises(NoVerdict, match=r"http://127\.0\.0\.1:9 gave no good answer .*[Rr]efused"):
        airflow.attach_or_start("steps", fresh("nowhere"), {})


def test_while_airflow_is_away_the_deadline_holds_and_the_caller_is_asked(
    server: AirflowServer, faults: AirflowFaults, held: DagRun
) -> None:
    run = attached(behind(faults, server), held)
    faults.switch_on(status=503)
    watched(run, polls=2)
    with pytest.raises(NoVerdict, match="not done after 1 s"):
        list(run.changes(1.0))


@pytest.mark.parametrize("answered", [True, False], ids=["before the answer", "before the request"])
def test_a_lost_answer_to_the_start_starts_no_second_run(
    server: AirflowServer, airflow: Airflow, faults: AirflowFaults, answered: bool
) -> None:
    faults.switch_on(cut="after" if answered else "before", method="POST", path="/dagRuns$", times=1)
    stem = fresh("lost")
    with cancelled_after(behind(faults, server).attach_or_start("steps", stem, {"hold": "60"})) as run:
        assert not run.attached
        assert runs_of(airflow, "steps", stem) == [f"{stem}__1"]


def test_a_fault_while_another_starts_the_run_attaches_to_it(
    server: AirflowServer, airflow: Airflow, faults: AirflowFaults
) -> None:
    run_id = fresh("raced")

    def other_starts(_: str) -> None:
        airflow.start("steps", run_id, {"hold": "60"})

    faults.switch_on(status=500, method="POST", path="/dagRuns$", times=1)
    mine = Airflow(replace(server.settings, url=faults.url), note=other_starts)
    with cancelled_after(mine.start("steps", run_id, {"hold": "60"})) as run:
        assert run.attached


def test_a_conflict_with_a_run_that_is_not_there_is_a_passing_fault(
    server: AirflowServer, faults: AirflowFaults
) -> None:
    faults.switch_on(status=409, method="POST", path="/dagRuns$", times=1)
    with cancelled_after(behind(faults, server).attach_or_start("steps", fresh("conflict"), {})) as run:
        assert not run.attached
    faults.switch_on(status=409, method="POST", path="/dagRuns$")
    with pytest.raises(NoVerdict, match=r"409 .*but there is no run"):
        behind(faults, server, grace_seconds=1.0).attach_or_start("steps", fresh("conflict"), {})


def test_an_interrupted_start_leaves_no_run_behind(
    server: AirflowServer, airflow: Airflow, faults: AirflowFaults
) -> None:
    def interrupt(_: str) -> None:
        raise Cancelled("cancelled by SIGTERM")

    faults.switch_on(cut="after", method="POST", path="/dagRuns$", times=1)
    run_id = fresh("interrupted")
    with pytest.raises(Cancelled):
        Airflow(replace(server.settings, url=faults.url), note=interrupt).start("steps", run_id, {"hold": "60"})
    assert airflow.start("steps", run_id, {}).state == "failed"


# Who we are


def test_a_token_that_is_refused_in_the_middle_is_renewed(
    server: AirflowServer, faults: AirflowFaults, held: DagRun
) -> None:
    run = attached(behind(faults, server), held)
    faults.switch_off()
    faults.switch_on(status=401, times=1)
    watched(run, polls=2)
    assert faults.asked.count("POST /auth/token") == 1


def test_a_user_who_is_refused_again_and_again_is_told_what_to_check(
    server: AirflowServer, faults: AirflowFaults, held: DagRun
) -> None:
    run = attached(behind(faults, server), held)
    faults.switch_off()
    faults.switch_on(status=401, path="/api/")
    with pytest.raises(ConfigurationError, match="refuses the user 'rps': check AIRFLOW_USERNAME and AIRFLOW_PASSWORD"):
        follow(run)
    assert faults.asked.count("POST /auth/token") == 1


@pytest.mark.parametrize(
    ("credentials", "shown"),
    [
        ({"password": "wrong-and-secret"}, "check AIRFLOW_USERNAME and AIRFLOW_PASSWORD"),
        ({"token": "no-token-and-secret"}, "refuses AIRFLOW_TOKEN"),
    ],
    ids=["password", "token"],
)
def test_wrong_credentials_are_reported_at_once_without_the_secret(
    server: AirflowServer, credentials: dict[str, str], shown: str
) -> None:
    settings: AirflowSettings = replace(server.settings, **credentials)
    with pytest.raises(ConfigurationError, match=shown) as raised:
        Airflow(settings).attach_or_start("steps", fresh("who"), {})
    assert "secret" not in str(raised.value)


def test_a_token_serves_instead_of_a_user(server: AirflowServer, held: DagRun) -> None:
    user = {"username": server.settings.username, "password": server.settings.password}
    token = httpx.post(f"{server.settings.url}/auth/token", json=user).json()["access_token"]
    attached(Airflow(replace(server.settings, token=token, username="", password="")), held)


def test_a_user_who_may_not_start_runs_is_reported(server: AirflowServer, faults: AirflowFaults) -> None:
    faults.switch_on(status=403, method="POST", path="/dagRuns$")
    with pytest.raises(ConfigurationError, match="does not allow this to our user: 403"):
        behind(faults, server).attach_or_start("steps", fresh("forbidden"), {})


# The DAG


def test_a_missing_dag_is_reported_with_the_files_that_airflow_could_not_read(server: AirflowServer) -> None:
    notes: list[str] = []
    with pytest.raises(ConfigurationError, match="has no DAG 'tarot'") as raised:
        Airflow(server.settings, note=notes.append, new_dag_seconds=1.0).attach_or_start("tarot", "any", {})
    assert "broken.py: RuntimeError: this DAG file of Airflow is broken" in str(raised.value)
    assert len(notes) == 1


def test_a_dag_that_was_just_added_is_waited_for(server: AirflowServer) -> None:
    name = fresh("added").replace("-", "_")
    server.add_dags(name, DAGS.split("steps = dag(")[0] + f"added = dag({name!r})\n")
    with cancelled_after(Airflow(server.settings).attach_or_start(name, "any", {})) as run:
        assert run.run_id == "any__1"


def test_a_dag_whose_file_was_broken_since_is_reported_with_the_reason(server: AirflowServer, airflow: Airflow) -> None:
    server.add_dags("spoilt", DAGS.split("steps = dag(")[0] + "spoilt = dag('spoilt')\n")
    with cancelled_after(airflow.attach_or_start("spoilt", "any", {})):
        server.add_dags("spoilt", "raise RuntimeError('this DAG file of Airflow is spoilt')\n")
    assert wait_while(lambda: not airflow.api.call(airflow.api.dags.get_dag, "spoilt").has_import_errors, seconds=60)
    with pytest.raises(ConfigurationError, match="this DAG file of Airflow is spoilt") as raised:
        Airflow(server.settings, new_dag_seconds=0.5).attach_or_start("spoilt", "any", {})
    assert "broken.py" not in str(raised.value)


def test_a_paused_dag_is_reported_at_once(airflow: Airflow) -> None:
    began = time.monotonic()
    with pytest.raises(ConfigurationError, match="airflow dags unpause asleep"):
        airflow.attach_or_start("asleep", "any", {})
    assert time.monotonic() - began < 5
    assert runs_of(airflow, "asleep", "any") == []


def test_a_dag_that_is_paused_while_its_run_waits_is_reported(airflow: Airflow) -> None:
    pause(airflow, "halting", paused=False)
    run = airflow.attach_or_start("halting", fresh("paused"), {})
    pause(airflow, "halting", paused=True)
    with cancelled_after(run), pytest.raises(ConfigurationError, match="airflow dags unpause halting"):
        follow(run)


def pause(airflow: Airflow, dag_id: str, *, paused: bool) -> None:
    airflow.api.call(airflow.api.dags.patch_dag, dag_id, client.DAGPatchBody(is_paused=paused))


# People's hands


def clear_run(airflow: Airflow, run: DagRun) -> None:
    body = client.DAGRunClearBody(dry_run=False)
    airflow.api.call(airflow.api.runs.clear_dag_run, run.dag_id, run.run_id, body)


def clear_task(airflow: Airflow, run: DagRun) -> None:
    tasks = [client.ClearTaskInstancesBodyTaskIdsInner("end")]
    body = client.ClearTaskInstancesBody(
        dry_run=False, dag_run_id=run.run_id, task_ids=tasks, only_failed=False, reset_dag_runs=False
    )
    airflow.api.call(airflow.api.tasks.post_clear_task_instances, run.dag_id, body)


def set_run(airflow: Airflow, run: DagRun, state: str) -> None:
    body = client.DAGRunPatchBody(state=state)
    airflow.api.call(airflow.api.runs.patch_dag_run, run.dag_id, run.run_id, body)


def delete_run(airflow: Airflow, run: DagRun) -> None:
    run.cancel()
    airflow.api.runs.delete_dag_run(run.dag_id, run.run_id)


def delete_and_start(airflow: Airflow, run: DagRun) -> None:
    delete_run(airflow, run)
    airflow.start(run.dag_id, run.run_id, {})


@pytest.mark.parametrize(
    ("hand", "shown"),
    [
        (clear_run, "was cleared by hand, or started anew"),
        (delete_run, "was deleted by hand"),
        (delete_and_start, "was cleared by hand, or started anew"),
    ],
)
def test_a_run_that_is_touched_while_we_wait_is_no_evidence(
    airflow: Airflow, hand: Callable[[Airflow, DagRun], None], shown: str
) -> None:
    run = airflow.attach_or_start("steps", fresh("touched"), {"hold": "60"})
    with cancelled_after(run):
        looks = run.changes(DEADLINE_SECONDS)
        next(looks)
        hand(airflow, run)
        with pytest.raises(NoVerdict, match=shown):
            list(looks)


def test_a_finished_task_that_is_cleared_while_we_wait_is_no_evidence(
    airflow: Airflow, ended: dict[str, DagRun]
) -> None:
    run = ended["task_set"]
    set_task(airflow, run, "failed")
    with pytest.raises(NoVerdict, match="had its task end cleared or changed by hand"):
        follow(run)


def set_task(airflow: Airflow, run: DagRun, state: str) -> None:
    body = client.PatchTaskInstanceBody(new_state=state)
    airflow.api.call(airflow.api.tasks.patch_task_instance, run.dag_id, run.run_id, "end", body)


def test_a_finished_run_that_was_cleared_is_no_evidence_even_to_a_user_who_may_not_read_the_audit_log(
    server: AirflowServer, airflow: Airflow, faults: AirflowFaults, ended: dict[str, DagRun]
) -> None:
    began = ended["cleared"].tasks[0].started
    assert began
    assert wait_while(lambda: datetime.now(UTC) < began + CLEARED, seconds=60)
    clear_run(airflow, ended["cleared"])
    faults.switch_on(status=403, path="/eventLogs")
    run = behind(faults, server).attach_or_start("steps", "cleared", {})
    assert run.attached
    shown = r"was cleared by hand.*: mark the run as failed in Airflow, then run this again for a new attempt"
    with cancelled_after(run), pytest.raises(NoVerdict, match=shown):
        follow(run)


def test_a_finished_run_with_a_task_that_was_cleared_is_no_evidence(airflow: Airflow, ended: dict[str, DagRun]) -> None:
    clear_task(airflow, ended["task_cleared"])
    run = airflow.attach_or_start("steps", "task_cleared", {})
    assert (run.attached, run.state) == (True, "success")
    with pytest.raises(NoVerdict, match=r"changed by hand in Airflow \(post_clear_task_instances by rps\)"):
        follow(run)


def test_a_failed_run_that_was_set_to_success_is_no_evidence(airflow: Airflow, ended: dict[str, DagRun]) -> None:
    run = airflow.start("steps", fresh("set") + "__1", {"hold": "60"})
    run.cancel()
    set_run(airflow, run, "success")
    again = airflow.attach_or_start("steps", run.run_id.partition("__")[0], {})
    assert (again.run_id, again.state) == (run.run_id, "success")
    with pytest.raises(NoVerdict, match=r"changed by hand in Airflow \(patch_dag_run by rps\)"):
        follow(again)


def test_a_note_on_a_run_changes_nothing(airflow: Airflow, held: DagRun) -> None:
    body = client.DAGRunPatchBody(note="seen")
    airflow.api.call(airflow.api.runs.patch_dag_run, held.dag_id, held.run_id, body, update_mask=["note"])
    watched(attached(airflow, held), polls=2)


def test_a_user_who_may_not_read_the_audit_log_is_reported_the_limit(
    server: AirflowServer, faults: AirflowFaults, held: DagRun
) -> None:
    notes: list[str] = []
    faults.switch_on(status=403, path="/eventLogs")
    watched(attached(behind(faults, server, notes), held), polls=2)
    assert len(notes) == 1
    assert "may not read Airflow's audit log" in notes[0]


# The end of a wait


def test_a_run_that_is_not_done_in_time_goes_on_and_is_reported(airflow: Airflow, held: DagRun) -> None:
    with pytest.raises(NoVerdict, match="not done after 1 s; it goes on at http"):
        list(held.changes(1.0))
    assert held.state in {"queued", "running"}


def test_a_cancelled_run_ends_the_process_that_is_at_work(airflow: Airflow) -> None:
    seconds = f"7{secrets.randbelow(10**6):06}"
    run = airflow.attach_or_start("steps", fresh("cancelled"), {"hold": seconds})

    def at_work() -> bool:
        return any(process.info["cmdline"] == ["sleep", seconds] for process in psutil.process_iter(["cmdline"]))

    assert wait_while(lambda: not at_work(), seconds=60)
    assert run.cancel()
    assert run.state == "failed"
    assert wait_while(at_work, seconds=30)
    assert not run.cancel()
    with pytest.raises(NoVerdict, match=r"changed by hand in Airflow \(patch_dag_run by rps\)"):
        follow(run)
    assert {task.name: task.state for task in run.tasks} == {"work": "failed", "end": "skipped"}


def test_a_run_that_has_ended_is_not_cancelled(airflow: Airflow, ended: dict[str, DagRun]) -> None:
    assert not ended["failed"].cancel()
    assert not airflow.cancel("steps", "never-there")


def test_a_cancellation_waits_out_a_passing_fault_and_gives_up_soon(
    server: AirflowServer, faults: AirflowFaults
) -> None:
    notes: list[str] = []
    run = behind(faults, server, notes).attach_or_start("steps", fresh("cancelled"), {"hold": "60"})
    faults.switch_on(status=503)
    began = time.monotonic()
    assert not run.cancel(patience_seconds=1.0)
    assert time.monotonic() - began < 4
    assert "could not be cancelled, and may go on" in notes[-1]
    faults.switch_off()
    faults.switch_on(cut="before", times=1)
    faults.switch_on(cut="after", times=1, method="PATCH")
    assert run.cancel()


def test_a_restart_of_airflow_in_the_middle_is_survived(server: AirflowServer) -> None:
    notes: list[str] = []
    airflow = Airflow(server.settings, note=notes.append, grace_seconds=DEADLINE_SECONDS * 3)
    run = airflow.attach_or_start("steps", fresh("restart"), {"hold": "5"})
    looks = run.changes(DEADLINE_SECONDS * 4)
    assert any(task.state == "running" for tasks in looks for task in tasks)
    server.end("airflow-api")
    with ThreadPoolExecutor(1) as starting:
        started = starting.submit(server.start, "airflow-api")
        *_, tasks = looks
    started.result()
    assert (run.state, {task.state for task in tasks}) == ("success", {"success"})
    assert "gives no good answer" in notes[0]
    assert "answers again" in notes[1]
