"""The figures of the serving benchmark: of one side in one round, and over all rounds.

Ratios are taken within a round, where both sides met the same machine; what is told is the median of the rounds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from eval.benchmarks.load import Load

#: The figures of each side (a store of ours, or a constant service) in one round.
Round = Mapping[str, Mapping[str, float]]

OURS: Final = "ours"
NATIVE: Final = "native"
RAW: Final = "raw_asgi"
FLOOR: Final = "floor"
CONCURRENCY: Final = (1, 8, 32)
_FIGURES: Final = ("p50_ms", "p99_ms", "throughput")
_BASES: Final = {NATIVE: "", RAW: "_raw_asgi", FLOOR: "_floor"}


def of(measured: Mapping[int, Load]) -> dict[str, float]:
    """Return the figures of one side in one round, from what was measured at each concurrency."""
    figures: dict[str, float] = {}
    for concurrency, one in measured.items():
        figures |= {
            f"p50_ms_c{concurrency}": one.percentile_ms(50),
            f"p99_ms_c{concurrency}": one.percentile_ms(99),
            f"throughput_c{concurrency}": one.throughput,
            f"client_busy_c{concurrency}": one.busy,
        }
    return figures


def summary(timed: Sequence[Round], store: str) -> dict[str, Any]:
    """Return ratios, their spread over rounds, and medians of one store's service and the constant ones."""
    ratios = {
        f"{name}{suffix}": found
        for base, suffix in _BASES.items()
        for name, found in over(timed, store, base).items()
    }
    sides = {OURS: store, **{base: base for base in _BASES}}
    return {
        "ratios": medians(ratios),
        "spread": {name: [min(found), max(found)] for name, found in ratios.items()},
        "medians": {
            name: medians({figure: [one[side][figure] for one in timed] for figure in timed[0][side]})
            for name, side in sides.items()
        },
    }


def over(
    timed: Sequence[Round], side: str, base: str, concurrency: Sequence[int] = CONCURRENCY
) -> dict[str, list[float]]:
    """Return the ratios of one side's figures to another's, round by round."""
    return {
        f"{figure.removesuffix('_ms')}_c{c}": [
            one[side][f"{figure}_c{c}"] / one[base][f"{figure}_c{c}"] for one in timed
        ]
        for c in concurrency
        for figure in _FIGURES
    }


def medians(found: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Return the median over rounds of each figure."""
    return {name: float(np.median(values)) for name, values in found.items()}


def client(timed: Sequence[Round]) -> dict[str, Any]:
    """Return the client's part: at the highest concurrency how busy it was, and what it could do against the floor."""
    most = CONCURRENCY[-1]
    busy = f"client_busy_c{most}"
    able = [one[FLOOR][f"throughput_c{most}"] / one[FLOOR][busy] for one in timed]
    return {
        f"ceiling_c{most}": float(np.median(able)),
        f"busy_c{most}": medians({side: [one[side][busy] for one in timed] for side in timed[0]}),
    }
