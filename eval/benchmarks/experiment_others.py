"""Whether interleaved experiments and values from another policy's log can be trusted: simulated ones of known truth.

Both go through the functions that read real ones. Customers differ in what they prefer, and give several credits each;
slots are filled by chance in half of the answers, and customers differ in how eagerly they click.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import pandas as pd

from eval.experiment.counterfactual import (
    PICK,
    PLACE,
    REWARD,
    SUPPORTED,
    UNIT,
    USUAL,
    AskedCounterfactual,
    LeftOut,
    value_slots,
    weight_of_usual,
)
from eval.experiment.interleaving import interval
from eval.experiment.looks import EveryLook, OneLook
from eval.experiment.moments import Floats
from feature_repo import schema as s

Progress = Callable[[str, int, int], None]

_DAYS: Final = 28
_ALIKE: Final = 4.0  # how much alike customers' tastes are: the sum of a Beta's parameters
_PRODUCTS: Final = 8
_EPSILON: Final = 0.5
_WAYS: Final = ("ips", "snips", "dr")
_NOW: Final = pd.Timestamp("2026-03-01", tz="UTC")


def preferences(generator: np.random.Generator, customers: int, *, share: float) -> Floats:
    """Draw the preferences of customers who give one or more credits, a mean ``share`` of them to the treatment."""
    taste = generator.beta(_ALIKE * share, _ALIKE * (1 - share), customers)
    credits_of = 1 + generator.poisson(0.7, customers)
    return np.asarray(0.5 * np.sign(2.0 * generator.binomial(credits_of, taste) - credits_of))


def interleaving_benchmark(
    *, runs: int, share: float, customers: int, seed: int, progress: Progress
) -> dict[str, Any]:
    """Return false alarms where nobody prefers either, and coverage where the treatment gets a ``share`` of credits."""
    found: dict[str, Any] = {"experiments": runs, "customers": customers, "looks": _DAYS}
    one, every = OneLook(), EveryLook(customers)
    truth = float(preferences(np.random.default_rng([seed, 9]), 4_000_000, share=share).mean())
    for name, chosen, wanted in (("no_preference", 0.5, 0.0), ("known_preference", share, truth)):
        generator = np.random.default_rng([seed, int(chosen * 100)])
        once, always, sure = 0, 0, 0
        for run in range(runs):
            drawn = preferences(generator, customers, share=chosen)
            _, low, high, _ = interval(drawn, one, confidence=0.95)
            once += low <= wanted <= high
            days = [drawn[: customers * (day + 1) // _DAYS] for day in range(_DAYS)]
            ends = [interval(part, every, confidence=0.95)[1:3] for part in days]
            always += all(low <= wanted <= high for low, high in ends)
            sure += any(low > 0 for low, _ in ends)
            progress("interleaved experiments", run + 1, runs)
        found[name] = {
            "delta": wanted,
            "covers_one_look": once / runs,
            "covers_every_look": always / runs,
            "treatment_surely_preferred_at_some_look": sure / runs,
        }
    return found


def slots(generator: np.random.Generator, size: int) -> tuple[pd.DataFrame, float]:
    """Draw slots that chance decides in half of the answers, a bundle's better picks, and the true difference."""
    truth = np.linspace(0.05, 0.6, _PRODUCTS)
    usual = generator.integers(_PRODUCTS, size=size)
    better = np.minimum(usual + 1, _PRODUCTS - 1)
    pick = np.where(generator.random(size) < 0.5, usual, better)
    chance = generator.random(size) < _EPSILON
    shown = np.where(chance, generator.integers(_PRODUCTS, size=size), usual)
    unit = generator.integers(size // 3, size=size)
    eager = generator.uniform(0.5, 1.5, size)[unit]
    frame = pd.DataFrame(
        {
            UNIT: unit,
            s.AT: _NOW,
            PLACE: 0,
            s.PRODUCT_ID: shown,
            s.PROPENSITY: _EPSILON / _PRODUCTS + np.where(shown == usual, 1 - _EPSILON, 0.0),
            USUAL: usual,
            PICK: pick,
            SUPPORTED: True,
            REWARD: (generator.random(size) < truth[shown] * eager).astype(float),
        }
    )
    step = truth[1] - truth[0]
    return frame, float(0.5 * step * (_PRODUCTS - 1) / _PRODUCTS)


def counterfactual_benchmark(*, runs: int, size: int, seed: int, progress: Progress) -> dict[str, Any]:
    """Return how often the interval of each estimator holds the true difference, and how often a log is refused."""
    asked = AskedCounterfactual("nextbest:simulated", resamples=400)
    generator = np.random.default_rng([seed, 7])
    held = dict.fromkeys(_WAYS, 0)
    widths = dict.fromkeys(_WAYS, 0.0)
    refused, thinned, effective = 0, 0, 0.0
    for run in range(runs):
        frame, truth = slots(generator, size)
        is_usual = frame[s.PRODUCT_ID] == frame[USUAL]
        weight = weight_of_usual(frame[s.PROPENSITY], is_usual, frame[UNIT])
        lossy = frame[is_usual | (generator.random(size) < 0.9)]
        held_back = lossy[s.PRODUCT_ID] == lossy[USUAL]
        thinned += weight_of_usual(lossy[s.PROPENSITY], held_back, lossy[UNIT])[1] < 0.005
        told = value_slots(
            frame, asked, LeftOut(), usual_weight=weight, name="simulated", now=_NOW, window_days=1, seed=run
        )
        if told.difference is None:
            refused += 1
        else:
            effective += told.counts.effective
            for way in _WAYS:
                one = getattr(told.difference, way)
                held[way] += one.low <= truth <= one.high
                widths[way] += one.high - one.low
        progress("values from a log", run + 1, runs)
    kept = max(runs - refused, 1)
    return {
        "logs": runs,
        "slots": size,
        "refused": refused / runs,
        "refused_with_a_tenth_of_chance_lost": thinned / runs,
        "effective_slots": round(effective / kept, 1),
        **{f"covers_{way}": held[way] / kept for way in _WAYS},
        **{f"width_{way}": round(widths[way] / kept, 5) for way in _WAYS},
    }
