"""How long and how often a service is asked again. No test waits: the clock is the test's."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from clients.patience import Patience


class Faults:
    """A service that fails so many times, on a clock that only sleeping moves."""

    def __init__(self, failures: int) -> None:
        self.left = failures
        self.elapsed = 0.0
        self.slept: list[float] = []

    def now(self) -> float:
        return self.elapsed

    def sleep(self, seconds: float) -> None:
        self.elapsed += seconds
        self.slept.append(seconds)

    def answer(self) -> str:
        if self.left:
            self.left -= 1
            raise ConnectionError("down")
        return "done"


def asked(service: Faults, patience: Patience, passes: Callable[[Exception], bool | float] = lambda _: True) -> str:
    return patience.ask(service.answer, passes)


def test_pauses_double_up_to_the_longest() -> None:
    service = Faults(6)
    assert (
        asked(service, Patience(60.0, first_pause=1.0, longest_pause=5.0, now=service.now, sleep=service.sleep))
        == "done"
    )
    assert service.slept == [1.0, 2.0, 4.0, 5.0, 5.0, 5.0]


def test_the_fault_itself_is_raised_when_the_time_is_up() -> None:
    service = Faults(100)
    with pytest.raises(ConnectionError, match="down"):
        asked(service, Patience(10.0, first_pause=1.0, longest_pause=4.0, now=service.now, sleep=service.sleep))
    assert service.elapsed == 10.0
    assert service.slept == [1.0, 2.0, 4.0, 3.0]


def test_no_patience_asks_once() -> None:
    service = Faults(1)
    with pytest.raises(ConnectionError):
        asked(service, Patience(0.0, now=service.now, sleep=service.sleep))
    assert (service.left, service.slept) == (0, [])


def test_questions_share_their_time_until_it_starts_again() -> None:
    service = Faults(2)
    patience = Patience(1.0, first_pause=1.0, now=service.now, sleep=service.sleep)
    with pytest.raises(ConnectionError):
        asked(service, patience)
    service.left = 1
    with pytest.raises(ConnectionError):
        asked(service, patience)
    service.left = 1
    assert asked(service, patience.again()) == "done"


def test_a_service_that_says_when_is_asked_then_or_not_at_all() -> None:
    service = Faults(1)
    assert asked(service, Patience(60.0, now=service.now, sleep=service.sleep), lambda _: 30.0) == "done"
    assert service.slept == [30.0]
    service = Faults(1)
    with pytest.raises(ConnectionError):
        asked(service, Patience(60.0, now=service.now, sleep=service.sleep), lambda _: 61.0)
    assert service.slept == []


def test_a_fault_that_does_not_pass_is_raised_at_once() -> None:
    service = Faults(1)
    with pytest.raises(ConnectionError):
        asked(service, Patience(60.0, now=service.now, sleep=service.sleep), lambda _: False)
    assert service.slept == []


def test_a_fault_can_be_reported_as_another_error() -> None:
    def refused(error: Exception) -> bool:
        raise PermissionError("the key is wrong") from error

    service = Faults(1)
    with pytest.raises(PermissionError, match="the key is wrong"):
        asked(service, Patience(60.0, now=service.now, sleep=service.sleep), refused)
