"""Choosing hyperparameters: a walk along one axis after the other, judged on validation data.

From a starting point each axis is followed upwards while it pays, else downwards; points seen before are not judged
again. Few fits, no luck involved, and the same answer every time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import BaseModel

C = TypeVar("C", bound=BaseModel)


@dataclass(frozen=True)
class Axis:
    """One setting and its values in order; ``path`` reaches into nested settings: ``confidence.alpha``.

    With ``tied``, other settings take the same value.
    """

    path: str
    values: Sequence[float | int | str]
    tied: tuple[str, ...] = ()


@dataclass(frozen=True)
class Trial(Generic[C]):
    """One point and how it was judged: more is better."""

    config: C
    score: float


def walk(
    start: C,
    axes: Sequence[Axis],
    judge: Callable[[C], float],
    *,
    trials: list[Trial[C]] | None = None,
) -> Trial[C]:
    """Return the best point found; every point judged is appended to ``trials``.

    Parameters
    ----------
    start
        Where the walk begins.
    axes
        In the order in which they are walked.
    judge
        Fits and judges one point.
    trials
        Takes a record of the walk.
    """
    seen: dict[str, Trial[C]] = {}

    def tried(config: C) -> Trial[C]:
        key = config.model_dump_json()
        if key not in seen:
            seen[key] = Trial(config, judge(config))
            if trials is not None:
                trials.append(seen[key])
        return seen[key]

    best = tried(start)
    for axis in axes:
        values = list(axis.values)
        held = setting(best.config, axis.path)
        place = min(range(len(values)), key=lambda i: _distance(values[i], held))
        if values[place] != held:
            best = max(best, tried(changed(best.config, axis, values[place])), key=lambda trial: trial.score)
        for step in (1, -1):
            moved, at = False, place + step
            while 0 <= at < len(values):
                trial = tried(changed(best.config, axis, values[at]))
                if trial.score <= best.score:
                    break
                best, moved, at = trial, True, at + step
            if moved:
                break
    return best


def changed(config: C, axis: Axis, value: Any) -> C:
    """Return ``config`` with one setting, and those tied to it, replaced and checked."""
    dumped = config.model_dump()
    for path in (axis.path, *axis.tied):
        *above, last = path.split(".")
        table = dumped
        for name in above:
            table = table[name]
        table[last] = value
    return type(config).model_validate(dumped)


def setting(config: BaseModel, path: str) -> Any:
    """Return one setting, which may be nested."""
    value: Any = config
    for name in path.split("."):
        value = value[name] if isinstance(value, Mapping) else getattr(value, name)
    return value


def _distance(value: Any, held: Any) -> float:
    if isinstance(value, str):
        return float(value != held)
    return abs(float(value) - float(held))
