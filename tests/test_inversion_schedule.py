"""The rates of an inversion: the thesis' ramps at every step."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lensbase.ingest.rosetta.schedule import BIGGAN_RATE, STYLEGAN2_RATE, Schedule
from lensbase.schema.zoo_errors import BadOptimization


def literal(step: int, steps: int, rate: float) -> float:
    """Linear from zero over the first 5 %, cosine to zero over the last 25 %."""
    time = step / steps
    if time < 0.05:
        return rate * time / 0.05
    if time > 0.75:
        return rate * (1 + math.cos(math.pi * (time - 0.75) / 0.25)) / 2
    return rate


@pytest.mark.parametrize("rate", [STYLEGAN2_RATE, BIGGAN_RATE])
@pytest.mark.parametrize("steps", [500, 40, 7, 1])
def test_every_step_has_the_rate_of_the_formula(steps: int, rate: float) -> None:
    schedule = Schedule(steps=steps, rate=rate)
    for step in range(steps):
        assert schedule.at(step) == pytest.approx(literal(step, steps, rate), abs=1e-15)


def test_the_thesis_has_500_steps_at_a_tenth() -> None:
    schedule = Schedule()
    assert (schedule.steps, schedule.rate, schedule.up, schedule.down) == (500, 0.1, 0.05, 0.25)
    rates = [schedule.at(step) for step in range(500)]
    assert rates[0] == 0
    assert rates[5] == pytest.approx(0.02)
    assert rates[25:376] == pytest.approx([0.1] * 351)
    assert rates[437] > 0.05 > rates[438] > rates[499] > 0


@given(
    steps=st.integers(1, 300),
    up=st.floats(0, 0.5),
    down=st.floats(0, 0.5),
)
def test_rates_rise_stay_and_fall(steps: int, up: float, down: float) -> None:
    schedule = Schedule(steps=steps, rate=1.0, up=up, down=down)
    rates = [schedule.at(step) for step in range(steps)]
    assert all(0 <= rate <= 1 for rate in rates)
    differences = np.diff(rates)
    peak = int(np.argmax(rates))
    assert (differences[:peak] > -1e-12).all()
    assert (differences[peak:] < 1e-12).all()


@pytest.mark.parametrize(
    "settings",
    [
        {"steps": 0},
        {"steps": -1},
        {"steps": 2.5},
        {"steps": True},
        {"rate": 0.0},
        {"rate": -0.1},
        {"rate": math.nan},
        {"up": 1.5},
        {"down": -0.1},
    ],
)
def test_what_no_optimization_can_run_with_is_named(settings: dict[str, float]) -> None:
    with pytest.raises(BadOptimization, match=next(iter(settings))):
        Schedule(**settings)  # pyright: ignore[reportArgumentType]
