"""Ports for a stack, a demo or a test: free, neighbouring, and never given to two processes."""

from __future__ import annotations

import ast
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.services import PORTS_TOGETHER, ROOT, free_ports


def test_processes_that_start_at_once_never_get_the_same_port() -> None:
    code = "from scripts.services import free_ports; print([free_ports(9) for _ in range(30)], flush=True); input()"
    processes = [
        subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdin=-1, stdout=-1, text=True) for _ in range(3)
    ]
    firsts = [first for process in processes for first in ast.literal_eval(process.stdout.readline())]
    for process in processes:
        process.communicate("\n")
    ports = [port for first in firsts for port in range(first, first + 9)]
    assert len(set(ports)) == 3 * 30 * 9


def test_a_process_never_gets_a_port_twice_whatever_it_asks_for() -> None:
    asked = [1, 1, 9, 13, 2, PORTS_TOGETHER, 1]
    ports = [port for count in asked for first in [free_ports(count)] for port in range(first, first + count)]
    assert len(set(ports)) == sum(asked)


def test_a_port_that_another_program_holds_is_passed_over() -> None:
    first = free_ports(1)
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", first + 1))
        assert free_ports(1) != first + 1


def test_the_ports_lie_below_those_of_outgoing_connections() -> None:
    text = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text()
    lowest = int(text.split()[0])
    assert free_ports(1) < min(lowest, 32_000)


@pytest.mark.parametrize("count", [0, PORTS_TOGETHER + 1])
def test_a_count_that_no_block_holds_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match=f"1 to {PORTS_TOGETHER} ports"):
        free_ports(count)
