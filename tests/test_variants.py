"""Assignment: shares are as configured, salts are independent, growth moves nobody the wrong way, processes agree."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2_contingency

from serving.errors import ConfigError
from serving.variants import Scale, positions, positions_of

MILLION = 1_000_000
EVERYBODY = [f"c{number:07d}" for number in range(MILLION)]
#: A fine and even cover of the scale, ends included.
COVER = np.linspace(0.0, 1.0 - 2.0**-53, 20_001)


@pytest.fixture(scope="module")
def placed() -> np.ndarray:
    return positions_of("spring", EVERYBODY)


@pytest.mark.parametrize(
    "weights", [(1,), (50, 50), (90, 10), (1, 1, 1), (5, 60, 15, 20), (0.7, 0.2, 0.05, 0.05)]
)
def test_a_million_customers_have_the_shares(placed: np.ndarray, weights: tuple[float, ...]) -> None:
    counts = np.bincount(Scale.of(weights).owners_of(placed), minlength=len(weights))
    shares = np.array(weights) / sum(weights)
    sigma = np.sqrt(MILLION * shares * (1 - shares))
    assert (np.abs(counts - MILLION * shares) <= 4 * sigma).all()


def test_positions_are_even(placed: np.ndarray) -> None:
    assert placed.min() >= 0.0
    assert placed.max() < 1.0
    counts = np.bincount((placed * 100).astype(int), minlength=100)
    assert ((counts - MILLION / 100) ** 2 / (MILLION / 100)).sum() < 99 + 4 * np.sqrt(
        2 * 99
    )  # χ², 99 degrees


def test_two_salts_are_independent(placed: np.ndarray) -> None:
    scale = Scale.of((40, 30, 20, 10))
    table = np.zeros((4, 4))
    np.add.at(table, (scale.owners_of(placed), scale.owners_of(positions_of("summer", EVERYBODY))), 1)
    assert chi2_contingency(table).pvalue > 1e-4
    same = np.zeros((4, 4))
    np.add.at(same, (scale.owners_of(placed), scale.owners_of(placed)), 1)
    assert chi2_contingency(same).pvalue < 1e-4, "the test can fail"


def test_one_by_one_is_as_all_at_once(placed: np.ndarray) -> None:
    scale, position = Scale.of((3, 1, 2, 7)), positions("spring")
    owners = scale.owners_of(placed[:5_000])
    for number, unit in enumerate(EVERYBODY[:5_000]):
        assert position(unit) == placed[number]
        assert scale.owner(position(unit)) == owners[number]


def test_positions_never_change() -> None:
    """Written down once: whoever changes them moves every customer of every running experiment."""
    assert [positions("spring")(unit) for unit in ("c1", "Zoë", "")] == pytest.approx(WRITTEN, abs=0)


WRITTEN = [0.20777668002921734, 0.10607221852533444, 0.17542556404853815]


def test_processes_agree_on_all(placed: np.ndarray, tmp_path: Path) -> None:
    """Another process, with other hash randomisation, places the whole million the same."""
    program = (
        "import sys, numpy as np\nfrom serving.variants import positions_of\n"
        "np.save(sys.argv[1], positions_of('spring', (f'c{n:07d}' for n in range(1_000_000))))"
    )
    path = tmp_path / "positions.npy"
    subprocess.run(
        [sys.executable, "-c", program, str(path)], check=True, env={**os.environ, "PYTHONHASHSEED": "12345"}
    )
    assert np.array_equal(np.load(path), placed)


weights = st.lists(st.integers(1, 1000), min_size=2, max_size=6)


@given(weights, st.data())
@settings(max_examples=300, deadline=None)
def test_growing_at_the_cost_of_control_moves_control_alone(held: list[int], data: st.DataObject) -> None:
    grown = data.draw(st.integers(1, len(held) - 1))
    by = data.draw(st.integers(0, held[0] - 1))
    after = list(held)
    after[grown] += by
    after[0] -= by
    total, others = sum(held), len(held) - 1
    if others > 2 and any(w * others > total for place, w in enumerate(held) if place not in (0, grown)):
        return  # not promised
    was, now = Scale.of(held).owners_of(COVER), Scale.of(after).owners_of(COVER)
    moved = was != now
    assert set(was[moved]) <= {0}
    assert set(now[moved]) <= {grown}


@given(weights)
@settings(max_examples=200, deadline=None)
def test_a_scale_has_exactly_the_shares(held: list[int]) -> None:
    scale = Scale.of(held)
    assert scale.starts[0] == 0.0
    assert list(scale.starts) == sorted(set(scale.starts))
    sizes = np.zeros(len(held))
    np.add.at(sizes, list(scale.owners), np.diff([*scale.starts, 1.0]))
    assert sizes == pytest.approx(np.array(held) / sum(held), abs=1e-12)


@given(st.integers(1, 99), st.integers(1, 99))
def test_decimal_weights_are_taken_as_written(first: int, second: int) -> None:
    tenths = Scale.of((first / 100, second / 100))
    assert tenths == Scale.of((first, second))


@pytest.mark.parametrize("bad", [(), (0,), (1, -1), (1, float("nan")), (1, float("inf"))])
def test_other_weights_are_refused(bad: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match="expected positive weights"):
        Scale.of(bad)
