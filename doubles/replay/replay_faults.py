"""What can be wrong with an answer of the replay, and what each kind does to it."""

from __future__ import annotations

import random
from collections.abc import Callable

from doubles.faults import Switched
from doubles.replay.open_meteo_wire import Hourly

DEFAULTS: dict[str, dict[str, object]] = {
    "rate_limit": {"retry_after": 1},
    "unauthorized": {},
    "server_error": {"status": 500},
    "slow": {"seconds": 2.0},
    "cut_off": {"how": "length"},
    "null_burst": {"hours": 24},
    "renamed_field": {"field": "temperature_2m", "to": "temperature"},
    "changed_units": {"silent": False},
    "stuck": {"hours": 48, "field": "temperature_2m"},
    "repeated": {"hours": 24, "conflicting": False},
    "out_of_order": {},
    "empty": {"how": "hours"},
}
_CHOICES = {("cut_off", "how"): ("length", "clean"), ("empty", "how"): ("hours", "body")}


class Fault(Switched, kw_only=True):
    options: dict[str, object]

    def shown(self) -> dict[str, object]:
        return {"kind": self.kind, "times": self.times, "after": self.after, **self.options}

    def number(self, name: str) -> float:
        return float(str(self.options[name]))


def read_fault(asked: object) -> Fault:
    """Raises ValueError with what was expected."""
    if not isinstance(asked, dict) or asked.get("kind") not in DEFAULTS:
        raise ValueError(f"kind: expected one of {', '.join(DEFAULTS)}; found {asked!r}")
    kind, times, after = asked["kind"], asked.get("times"), asked.get("after", 0)
    options = {
        **DEFAULTS[kind],
        **{name: value for name, value in asked.items() if name not in {"kind", "times", "after"}},
    }
    if unknown := set(options) - set(DEFAULTS[kind]):
        raise ValueError(
            f"{kind}: expected {', '.join(DEFAULTS[kind]) or 'no options'}; found {', '.join(sorted(unknown))}"
        )
    for name, value in options.items():
        default = DEFAULTS[kind][name]
        wrong = isinstance(value, bool) != isinstance(default, bool) or isinstance(value, str) != isinstance(
            default, str
        )
        if wrong or value not in _CHOICES.get((kind, name), (value,)):
            expected = " or ".join(map(str, _CHOICES.get((kind, name), (type(default).__name__,))))
            raise ValueError(f"{kind}.{name}: expected {expected}; found {value!r}")
    if not (times is None or (isinstance(times, int) and times > 0)) or not (isinstance(after, int) and after >= 0):
        raise ValueError(f"times, after: expected whole numbers of answers; found {times!r}, {after!r}")
    return Fault(kind=kind, times=times, after=after, options=options)


def spoil(hourly: Hourly, faults: dict[str, Fault]) -> None:
    """Change one place's hours as the faults say."""
    for kind, change in _CHANGES.items():
        if kind in faults:
            change(hourly, faults[kind])


def _null_burst(hourly: Hourly, fault: Fault) -> None:
    start = max(len(hourly.times) - int(fault.number("hours")), 0)
    for values in hourly.columns.values():
        values[start:] = [None] * (len(values) - start)


def _stuck(hourly: Hourly, fault: Fault) -> None:
    values = hourly.columns.get(str(fault.options["field"]), [])
    start = max(len(values) - int(fault.number("hours")), 0)
    values[start:] = values[start : start + 1] * (len(values) - start)


def _changed_units(hourly: Hourly, fault: Fault) -> None:
    for name, unit in list(hourly.units.items()):
        if unit == "°C":
            values = hourly.columns[name]
            hourly.columns[name] = [None if value is None else round(value * 9 / 5 + 32, 4) for value in values]
            if not fault.options["silent"]:
                hourly.units[name] = "°F"


def _repeated(hourly: Hourly, fault: Fault) -> None:
    hours = int(fault.number("hours"))
    hourly.times += hourly.times[-hours:]
    shift = 1.0 if fault.options["conflicting"] else 0.0
    for values in hourly.columns.values():
        values += [None if value is None else value + shift for value in values[-hours:]]


def _out_of_order(hourly: Hourly, fault: Fault) -> None:  # noqa: ARG001 - every change has the same form
    order = list(range(len(hourly.times)))
    random.Random(len(order)).shuffle(order)  # noqa: S311 - any order will do, as long as it is the same again
    hourly.times[:] = [hourly.times[place] for place in order]
    for values in hourly.columns.values():
        values[:] = [values[place] for place in order]


def _empty(hourly: Hourly, fault: Fault) -> None:  # noqa: ARG001 - every change has the same form
    hourly.times.clear()
    for values in hourly.columns.values():
        values.clear()


def _renamed_field(hourly: Hourly, fault: Fault) -> None:
    old, new = str(fault.options["field"]), str(fault.options["to"])
    hourly.columns = {new if name == old else name: values for name, values in hourly.columns.items()}
    hourly.units = {new if name == old else name: unit for name, unit in hourly.units.items()}


_CHANGES: dict[str, Callable[[Hourly, Fault], None]] = {
    "null_burst": _null_burst,
    "stuck": _stuck,
    "changed_units": _changed_units,
    "repeated": _repeated,
    "out_of_order": _out_of_order,
    "empty": _empty,
    "renamed_field": _renamed_field,
}
