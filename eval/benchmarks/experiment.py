"""Whether the reading of experiments can be trusted: thousands of simulated experiments whose truth is known.

Values are as a shop has them: about three customers in a hundred buy within the window, what they spend is
lognormal, and who bought before buys again. Each experiment goes through the very functions that read real ones.
False alarms are counted where the arms are alike (A/A), coverage where one has a known lift (A/B), and the check of
shares with and without a lossy log.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from eval.experiment.effect import Effect, effect
from eval.experiment.looks import EveryLook, OneLook
from eval.experiment.moments import Floats, Moments, adjusted
from eval.experiment.shares import THRESHOLD, mismatch

Progress = Callable[[str, int, int], None]

_RATE: Final = 0.03  # purchases a customer makes in the window, on average
_SPREAD: Final = 1.2  # of the logarithm of that rate between customers
_BASKET: Final = 3.0  # logarithm of a typical basket
_OWN, _CHANCE = 0.5, 0.6  # how baskets differ between customers, and from one to the next
_PAST: Final = 4  # the past that is known is so many windows long
_AT_ONCE: Final = 20


@dataclass(frozen=True)
class Size:
    """How large the simulated experiments are: customers an arm in all, over how many days, one look each day."""

    customers: int = 20_000
    days: int = 28

    @property
    def daily(self) -> int:
        """Customers an arm and day."""
        return self.customers // self.days


def mean_value() -> float:
    """Return the true mean value of a customer of the control."""
    return _RATE * float(np.exp(_BASKET + (_OWN**2 + _CHANCE**2) / 2))


@dataclass(frozen=True)
class Drawn:
    """Moments of simulated experiments, each of shape (runs, arms, days).

    ``value`` and ``clicks`` go with their own past, purchases with the exposures that they are a ``ratio`` to.
    """

    value: Moments
    clicks: Moments
    ratio: Moments


def draw(generator: np.random.Generator, runs: int, size: Size, *, lift: float) -> Drawn:
    """Draw experiments in which the treatment multiplies the rate of purchases by 1 + ``lift``, and nothing else."""
    shape = (runs, 2, size.days, size.daily)
    taste = generator.standard_normal(shape, dtype=np.float32)
    rate = _RATE * np.exp(_SPREAD * taste - _SPREAD**2 / 2)
    past_count = generator.poisson(_PAST * rate)
    rate[:, 1] *= 1 + lift
    count = generator.poisson(rate)
    exposures = 1 + generator.poisson(3 * np.exp(0.5 * taste))
    value, past = np.zeros(shape), np.zeros(shape)
    bought, before = count > 0, past_count > 0
    own = generator.normal(0.0, _OWN, int((bought | before).sum()))
    level = np.zeros(shape)
    level[bought | before] = own
    for amount, times, which in ((value, count, bought), (past, past_count, before)):
        noise = generator.normal(_BASKET, _CHANCE, int(which.sum()))
        amount[which] = times[which] * np.exp(noise + level[which])
    habit = 2 * np.exp(0.8 * taste - 0.8**2 / 2)
    clicks, past_clicks = generator.poisson(habit), generator.poisson(_PAST * habit)
    return Drawn(Moments.of(value, past), Moments.of(clicks, past_clicks), Moments.of(count, exposures))


def experiment_benchmark(
    *,
    runs: int = 1000,
    lifted: int = 500,
    lift: float = 0.10,
    size: Size | None = None,
    seed: int = 0,
    progress: Progress,
) -> dict[str, Any]:
    """Return false alarms, coverage, what the past narrows, and how the check of shares does.

    Parameters
    ----------
    runs, lifted
        Experiments without and with a true lift.
    lift
        The true relative lift of the latter.
    size
        Of each experiment; 20,000 customers an arm over 28 days by default.
    seed
        Same seed, same figures.
    progress
        Told what is done.
    """
    begun = time.perf_counter()
    chosen = size or Size()
    return {
        "customers_an_arm": chosen.daily * chosen.days,
        "days": chosen.days,
        "seed": seed,
        "no_effect": _no_effect(np.random.default_rng([seed, 0]), runs, chosen, progress),
        "known_lift": _known_lift(np.random.default_rng([seed, 1]), lifted, lift, chosen, progress),
        "shares": [
            _shares(np.random.default_rng([seed, 2]), runs=10_000, customers=customers)
            for customers in (100_000, 200_000)
        ],
        "seconds": round(time.perf_counter() - begun, 1),
    }


def _no_effect(
    generator: np.random.Generator, runs: int, size: Size, progress: Progress
) -> dict[str, float | int]:
    wrong: dict[str, list[Floats]] = {}

    def note(name: str, rejected: npt.ArrayLike) -> None:
        wrong.setdefault(name, []).append(np.asarray(rejected, dtype=np.float64))

    every = EveryLook(2 * size.customers)
    for done in range(0, runs, _AT_ONCE):
        drawn = draw(generator, min(_AT_ONCE, runs - done), size, lift=0.0)
        daily, end, ratio = drawn.value.cumulated(), drawn.value.merged(), drawn.ratio.merged()
        note("one_look", _rejects(_plain(end, OneLook())))
        note("one_look_with_past", _rejects(_with_past(end, OneLook())))
        note("one_look_clicks_with_past", _rejects(_with_past(drawn.clicks.merged(), OneLook())))
        note("one_look_ratio", _rejects(_ratio(ratio, OneLook())))
        note("exposures_taken_as_independent", _naive(ratio))
        note("every_look", _rejects(_plain(daily, every)).any(axis=-1))
        note("every_look_with_past", _rejects(_with_past(daily, every)).any(axis=-1))
        note("one_look_interval_read_daily", _rejects(_plain(daily, OneLook())).any(axis=-1))
        progress("experiments without an effect", min(done + _AT_ONCE, runs), runs)
    return {
        "experiments": runs,
        **{f"false_alarms_{name}": float(np.concatenate(found).mean()) for name, found in wrong.items()},
    }


def _known_lift(
    generator: np.random.Generator, runs: int, lift: float, size: Size, progress: Progress
) -> dict[str, float | int]:
    truth = lift * mean_value()
    every = EveryLook(2 * size.customers)
    told: dict[str, list[Floats]] = {}

    def note(name: str, values: npt.ArrayLike) -> None:
        told.setdefault(name, []).append(np.asarray(values, dtype=np.float64))

    for done in range(0, runs, _AT_ONCE):
        drawn = draw(generator, min(_AT_ONCE, runs - done), size, lift=lift)
        end, daily, clicks = drawn.value.merged(), drawn.value.cumulated(), drawn.clicks.merged()
        plain, past = _plain(end, OneLook()), _with_past(end, OneLook())
        for name, found in (("", plain), ("_with_past", past)):
            note(f"covers_absolute{name}", (found.low <= truth) & (truth <= found.high))
            note(f"covers_relative{name}", (found.relative_low <= lift) & (lift <= found.relative_high))
        each = _with_past(daily, every)
        note("covers_every_look_with_past", ((each.low <= truth) & (truth <= each.high)).all(axis=-1))
        note("narrowed_by_past_value", 1 - past.error / plain.error)
        note(
            "narrowed_by_past_clicks",
            1 - _with_past(clicks, OneLook()).error / _plain(clicks, OneLook()).error,
        )
        note("detects", _rejects(plain))
        note("detects_with_past", _rejects(past))
        note("detects_at_some_look_with_past", _rejects(each).any(axis=-1))
        note("every_look_width", (each.high - each.low)[..., -1] / (past.high - past.low))
        progress("experiments with a known lift", min(done + _AT_ONCE, runs), runs)
    return {
        "experiments": runs,
        "relative_lift": lift,
        "absolute_lift": truth,
        **{name: float(np.concatenate(values).mean()) for name, values in told.items()},
    }


def _shares(generator: np.random.Generator, *, runs: int, customers: int) -> dict[str, float | int]:
    """Return how often the check fails where customers fall to two arms at even odds, and where one loses 2 %."""
    first = generator.binomial(2 * customers, 0.5, runs)
    second = 2 * customers - first
    kept = generator.binomial(second, 0.98)
    even = mismatch(np.stack([first, second], axis=-1), [0.5, 0.5])
    lossy = mismatch(np.stack([first, kept], axis=-1), [0.5, 0.5])
    return {
        "experiments": runs,
        "customers_an_arm": customers,
        "threshold": THRESHOLD,
        "fails_under_equal_assignment": float((even < THRESHOLD).mean()),
        "fails_with_2_percent_of_one_log_lost": float((lossy < THRESHOLD).mean()),
    }


def _arms(both: Moments) -> tuple[Moments, Moments]:
    first, second = (
        Moments(
            both.n[:, arm], both.y[:, arm], both.x[:, arm], both.yy[:, arm], both.xx[:, arm], both.xy[:, arm]
        )
        for arm in (0, 1)
    )
    return first, second


def _plain(both: Moments, looks: OneLook | EveryLook) -> Effect:
    control, treatment = _arms(both)
    return effect(control.mean(), treatment.mean(), looks)


def _with_past(both: Moments, looks: OneLook | EveryLook) -> Effect:
    return effect(*adjusted(*_arms(both)), looks)


def _ratio(both: Moments, looks: OneLook | EveryLook) -> Effect:
    control, treatment = _arms(both)
    return effect(control.ratio(), treatment.ratio(), looks)


def _rejects(found: Effect) -> Floats:
    return np.asarray((found.low > 0) | (found.high < 0))


def _naive(both: Moments) -> Floats:
    """Return where the usual test of two shares, each exposure a trial of its own, sees a difference."""
    trials = both.n * both.x
    share = both.y / both.x
    pooled = (both.n * both.y).sum(axis=-1) / trials.sum(axis=-1)
    error = np.sqrt(pooled * (1 - pooled) * (1 / trials).sum(axis=-1))
    return np.asarray(np.abs(share[:, 1] - share[:, 0]) > 1.959964 * error)
