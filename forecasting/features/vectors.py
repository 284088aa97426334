"""A wind as its components: u = -speed · sin(direction) towards east, v = -speed · cos(direction) towards north.

The direction is where the wind comes from, in degrees clockwise from north. Both forms of a feature take the sine of a
direction from the same function, because a processor's vector unit and its scalar one differ in the last bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
Component = Literal["u", "v"]

COMPONENTS: dict[Component, Callable[[float], float]] = {"u": math.sin, "v": math.cos}


def component_values(component: Component, speed: FloatArray, direction: FloatArray) -> FloatArray:
    """One component of each wind, in the unit of its speed; NaN when either is missing, 0 in a calm. All (n,).

    A calm (speed 0) has no direction, so none is needed.
    """
    wave = COMPONENTS[component]
    distinct, places = np.unique(direction, return_inverse=True)
    waves = np.array([wave(math.radians(degrees)) for degrees in distinct.tolist()])
    return np.where(speed == 0.0, 0.0, -speed * waves[places])
