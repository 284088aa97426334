"""The laptop stack: `python -m scripts.stack up | down | status`.

All state lies under `.rps/`. It is safe to run it twice or to interrupt it.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from functools import partial
from pathlib import Path

import msgspec
from filelock import AcquireReturnProxy, FileLock, Timeout

from scripts.demo_frame import guarded
from scripts.processes import Started, end, log_end, members, port_holder, recorded, wait_while
from scripts.services import READY_SECONDS, Service, Stack, StackError, laptop_stack, launch, write_private

PATIENCE_SECONDS = 8.0


def up(stack: Stack) -> None:
    """Start what is not running and wait until all is healthy. Raises StackError."""
    with _alone(stack):
        for service in stack.services:
            started = _recorded(stack, service.name)
            if started and started.alive and started.address != service.address:
                asked = f"{service.ports_setting} asks for {service.address}"
                raise StackError(f"{service.name} runs at {started.address}, but {asked}: run 'make down' first.")
            if not (started and started.alive):
                # What a service that was killed has left behind (Airflow's idle workers) must not meet its successor.
                end([started] if started else [], patience_seconds=PATIENCE_SECONDS)
                _start(stack, service)
        _wait_until_healthy(stack, stack.services)
        exports = (f"export {name}={shlex.quote(value)}\n" for name, value in stack.addresses.items())
        write_private(stack.home / "stack.env", "".join(exports))


def replace(stack: Stack, services: list[Service]) -> None:
    """End what runs under these names, start these services one by one, and wait for each. Raises StackError."""
    with _alone(stack):
        for service in reversed(services):
            started = _recorded(stack, service.name)
            end([started] if started else [], patience_seconds=PATIENCE_SECONDS)
        for service in services:
            _start(stack, service)
            _wait_until_healthy(stack, [service])


def down(stack: Stack) -> int:
    """End every process that was started, and say so; how many were. Raises StackError when one does not end."""
    with _alone(stack):
        records = sorted((stack.home / "processes").glob("*.json"), reverse=True)
        found = {path: msgspec.json.decode(path.read_bytes(), type=Started) for path in records}
        ended = end(found.values(), patience_seconds=PATIENCE_SECONDS)
        left = members(found.values())
        if left:
            numbers = ", ".join(str(process.pid) for process in left)
            raise StackError(f"processes {numbers} do not end: run 'make down' again, or end them as their owner.")
        for path, started in found.items():
            print(f"  {path.stem:<18} ended (was process {started.pid})", flush=True)
            path.unlink()
        if records:
            print(f"{len(ended)} processes ended; none is left. Data stays in {stack.home}.")
        else:
            print("Nothing was running.")
        return len(ended)


def status(stack: Stack) -> bool:
    """Print each service's state; whether all are healthy."""
    well = True
    # The service and its feed are there only after a model is: `make demo` starts them.
    online = [service for service in stack.online("", "") if _recorded(stack, service.name)]
    for service in (*stack.services, *online):
        started = _recorded(stack, service.name)
        if not (started and started.alive):
            state = "down"
        elif service.healthy():
            state = f"up, process {started.pid}"
        else:
            state = f"process {started.pid} does not answer; see {_log(stack, service.name)}"
        well = well and state.startswith("up")
        print(f"  {service.name:<18} {service.address:<28} {state}")
    return well


def _alone(stack: Stack) -> AcquireReturnProxy[FileLock]:
    try:
        return FileLock(stack.home / "stack.lock").acquire(timeout=READY_SECONDS)
    except Timeout:
        raise StackError("another 'stack up' or 'down' works on this stack: wait for it, then try again.") from None


def _start(stack: Stack, service: Service) -> None:
    """Raises StackError, also when another process holds a port of the service."""
    for port in service.ports:
        if holder := port_holder(port):
            message = f"{service.name} needs port {port}, which is held by {holder}"
            raise StackError(f"{message}: stop it, or set {service.ports_setting} to another port.")
    launch(service, _log(stack, service.name), _record(stack, service.name))


def _wait_until_healthy(stack: Stack, services: list[Service]) -> None:
    began = time.monotonic()
    waiting = list(services)

    def starting() -> bool:
        for service in tuple(waiting):
            started = _recorded(stack, service.name)
            if service.healthy():
                seconds = f"{time.monotonic() - began:.0f} s"
                print(f"  {service.name:<18} {service.address:<28} up after {seconds}", flush=True)
                waiting.remove(service)
            elif not (started and started.alive):
                raise StackError(f"{service.name} ended while starting{_log_end(stack, service)}")
        return bool(waiting)

    if not wait_while(starting, seconds=READY_SECONDS, pause=0.2):
        message = f"{waiting[0].name} gave no healthy answer within {READY_SECONDS:.0f} s"
        raise StackError(f"{message}{_log_end(stack, waiting[0])}")


def _record(stack: Stack, name: str) -> Path:
    return stack.home / "processes" / f"{name}.json"


def _recorded(stack: Stack, name: str) -> Started | None:
    return recorded(_record(stack, name))


def _log(stack: Stack, name: str) -> Path:
    return stack.home / "logs" / f"{name}.log"


def _log_end(stack: Stack, service: Service) -> str:
    log = _log(stack, service.name)
    return f"; the end of {log}:\n{log_end(log)}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m scripts.stack", description=__doc__)
    actions = {
        "up": "start what is not running, wait until all is healthy",
        "down": "end every process that was started",
        "status": "show each service's state",
    }
    epilog = "\n".join(f"  {name:<8} {what}" for name, what in actions.items())
    parser.epilog, parser.formatter_class = epilog, argparse.RawDescriptionHelpFormatter
    parser.add_argument("action", choices=actions, metavar="|".join(actions))
    work = partial(_act, parser.parse_args().action)
    return guarded("stack", work, ". Started services go on; 'make down' ends them.")


def _act(action: str) -> int:
    stack = laptop_stack()
    if action == "up":
        up(stack)
        print(f"The stack is up. To use it from a shell: source {stack.home / 'stack.env'}")
    elif action == "down":
        down(stack)
    else:
        return 0 if status(stack) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
