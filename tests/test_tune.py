"""The walk over hyperparameters: it finds what can be found along axes, and judges no point twice."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from training.tune import Axis, Trial, changed, walk


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    alpha: float = 1.0
    beta: float = 1.0


class Setting(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    x: int = Field(default=0, le=100)
    y: float = 0.0
    kind: str = "plain"
    inner: Inner = Field(default_factory=Inner)
    named: dict[str, float] = Field(default_factory=lambda: {"a": 1.0})


GRID = tuple(range(10))
X, Y = Axis("x", GRID), Axis("y", tuple(float(value) for value in GRID))


def walked(
    start: Setting, axes: Sequence[Axis], judge: Callable[[Setting], float]
) -> tuple[Trial[Setting], list[Setting]]:
    trials: list[Trial[Setting]] = []
    best = walk(start, axes, judge, trials=trials)
    asked = [trial.config for trial in trials]
    assert best in trials and best.score == max(trial.score for trial in trials)
    return best, asked


@settings(max_examples=80, deadline=None)
@given(
    start=st.tuples(st.integers(0, 9), st.integers(0, 9)),
    peak=st.tuples(st.floats(-3, 12), st.floats(-3, 12)),
    stretch=st.floats(0.1, 10),
)
def test_a_concave_function_is_maximised_wherever_the_walk_starts(
    start: tuple[int, int], peak: tuple[float, float], stretch: float
) -> None:
    """Separable and concave: along each axis the first step that does not pay ends the way."""

    def height(x: float, y: float) -> float:
        return -stretch * (x - peak[0]) ** 2 - (y - peak[1]) ** 2

    calls: list[str] = []

    def judge(config: Setting) -> float:
        calls.append(config.model_dump_json())
        return height(config.x, config.y)

    best, asked = walked(Setting(x=start[0], y=start[1]), (X, Y), judge)
    # two points beside the peak may differ by less than rounding shows while the other setting is far off
    assert best.score == pytest.approx(max(height(x, y) for x in GRID for y in GRID), abs=1e-9)
    assert len(calls) == len(set(calls)) == len(asked)
    # the whole grid has a hundred points; a way along an axis and back is its length and the steps that end it
    assert len(calls) <= 2 * (len(GRID) + 2)


def test_the_way_goes_up_while_it_pays_and_only_then_down() -> None:
    peak = {"x": 7}
    _, asked = walked(Setting(x=4), (X,), lambda config: -abs(config.x - peak["x"]))
    assert [config.x for config in asked] == [4, 5, 6, 7, 8]
    peak["x"] = 2
    _, asked = walked(Setting(x=4), (X,), lambda config: -abs(config.x - peak["x"]))
    assert [config.x for config in asked] == [4, 5, 3, 2, 1]


def test_at_the_ends_there_is_nowhere_to_go() -> None:
    best, asked = walked(Setting(x=9), (X,), lambda config: config.x)
    assert (best.config.x, [config.x for config in asked]) == (9, [9, 8])
    best, asked = walked(Setting(x=9), (X,), lambda config: -config.x)
    assert (best.config.x, [config.x for config in asked]) == (0, [9, 8, 7, 6, 5, 4, 3, 2, 1, 0])


def test_as_good_is_not_better() -> None:
    best, asked = walked(Setting(x=4), (X, Y), lambda config: 1.0)
    assert best.config == Setting(x=4)
    assert [(config.x, config.y) for config in asked] == [(4, 0.0), (5, 0.0), (3, 0.0), (4, 1.0)]


def test_no_point_is_judged_twice_even_when_axes_come_again() -> None:
    calls: list[int] = []

    def judge(config: Setting) -> float:
        calls.append(config.x)
        return -abs(config.x - 6)

    assert walk(Setting(x=4), (X, X, X), judge).config.x == 6
    assert calls == [4, 5, 6, 7]


def test_a_start_off_the_axis_is_kept_when_it_is_best() -> None:
    """The nearest value of the axis is tried beside it, and the walk goes on from there."""
    axis = Axis("y", (0.0, 1.0, 2.0, 3.0))
    best, asked = walked(Setting(y=1.2), (axis,), lambda config: -abs(config.y - 1.2))
    assert best.config.y == 1.2
    assert {config.y for config in asked} == {1.2, 1.0, 2.0, 0.0}
    best, _ = walked(Setting(y=1.2), (axis,), lambda config: config.y)
    assert best.config.y == 3.0
    best, _ = walked(Setting(y=1.9), (axis,), lambda config: -config.y)
    assert best.config.y == 0.0


@pytest.mark.parametrize("start", ["plain", "bm25", "linear"])
@pytest.mark.parametrize("wanted", ["plain", "cosine", "bm25"])
def test_words_are_tried_in_order(start: str, wanted: str) -> None:
    """Words have no distance: one that is not on the axis begins at its first."""
    order = ("plain", "cosine", "bm25")
    value = {kind: -abs(order.index(kind) - order.index(wanted)) for kind in order} | {"linear": -9}
    best, _ = walked(Setting(kind=start), (Axis("kind", order),), lambda config: value[config.kind])
    assert best.config.kind == wanted


def test_nested_and_tied_settings() -> None:
    axis = Axis("inner.alpha", (0.5, 1.0, 2.0, 4.0), tied=("inner.beta", "y", "named.a"))
    best, asked = walked(Setting(), (axis,), lambda config: config.inner.alpha)
    assert best.config == Setting(inner=Inner(alpha=4.0, beta=4.0), y=4.0, named={"a": 4.0})
    assert all(
        config.inner.beta == config.y == config.named["a"] == config.inner.alpha for config in asked[1:]
    )


def test_an_axis_reaches_into_a_table() -> None:
    best, _ = walked(Setting(), (Axis("named.a", (0.5, 1.0, 2.0)),), lambda config: -config.named["a"])
    assert best.config.named == {"a": 0.5}


def test_changes_are_checked_and_the_start_stays_as_it_was() -> None:
    start = Setting()
    assert changed(start, Axis("x", ()), 7) == Setting(x=7)
    assert start == Setting()
    for path, value in (("x", 101), ("inner.gamma", 1.0), ("z", 1)):
        with pytest.raises(ValidationError):
            changed(start, Axis(path, ()), value)


def test_axes_are_walked_in_order_each_from_the_best_so_far() -> None:
    """With a ridge along x = y a walk along axes stops on it: the first axis decides, as documented."""
    best, _ = walked(Setting(x=5, y=0), (Y, X), lambda config: -10 * abs(config.x - config.y) + config.x)
    assert (best.config.x, best.config.y) == (5, 5.0)
    best, _ = walked(Setting(x=5, y=0), (X, Y), lambda config: -10 * abs(config.x - config.y) + config.x)
    assert (best.config.x, best.config.y) == (0, 0.0)
