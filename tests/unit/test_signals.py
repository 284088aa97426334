"""A cancelled job's signals: either becomes one exception, after which the tidying up is left in peace."""

from __future__ import annotations

import signal

import pytest

from ci.signals import cancelled_by_signals
from clients.errors import Cancelled

NUMBERS = (signal.SIGINT, signal.SIGTERM)


@pytest.mark.parametrize("number", NUMBERS)
def test_a_signal_cancels_once_and_says_what_to_do(number: signal.Signals) -> None:
    with cancelled_by_signals("run it again"):
        with pytest.raises(Cancelled, match=f"^cancelled by {number.name}; run it again$"):
            signal.raise_signal(number)
        for more in NUMBERS:
            signal.raise_signal(more)


def test_once_they_are_ignored_no_signal_disturbs() -> None:
    with cancelled_by_signals("run it again") as signals:
        signals.ignore()
        for number in NUMBERS:
            signal.raise_signal(number)


def test_afterwards_signals_do_what_they_did_before() -> None:
    before = [signal.getsignal(number) for number in NUMBERS]
    with cancelled_by_signals("run it again"):
        assert [signal.getsignal(number) for number in NUMBERS] != before
    assert [signal.getsignal(number) for number in NUMBERS] == before
