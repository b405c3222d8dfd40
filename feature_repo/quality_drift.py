"""Comparing distributions: the population stability index, with the noise of small samples allowed for.

PSI = Σ (q − p) ln(q / p) over the bins of the earlier distribution. Below 0.1 nothing has changed, from 0.25
much has (Siddiqi, Credit Risk Scorecards, 2006, ch. 9); a column from 0.25 on is a warning, and one
between is told. Under no change PSI · nm/(n + m) is nearly χ² with B − 1 degrees of freedom (Yurdakul, Statistical
Properties of Population Stability Index, 2018), so its mean is (B − 1)(1/n + 1/m): of fifty rows any bins
differ, and what is not beyond that noise is not told. Deliberately absent: a test of significance alone,
which of a million rows finds every column changed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from feature_repo.checks_form import Finding
from feature_repo.quality_profile import ColumnProfile

__all__ = ["MAJOR", "MODERATE", "Drift", "compare_columns", "drift_findings", "noise", "psi"]

MODERATE: Final = 0.1
MAJOR: Final = 0.25

_SMOOTHING: Final = 0.5
_SMOOTHING_SHARE: Final = 0.001
_Z: Final = 3.72  # one in ten thousand: a run compares dozens of columns
_FILLED: Final = 0.05  # change of the share filled that matters
_EXPECTED: Final = 10.0  # rows one should have found, or seen before, for a text to be missed, or new


@dataclass(frozen=True)
class Drift:
    """One column, then and now.

    Attributes
    ----------
    column
        Its name.
    psi
        Population stability index; 0 where it has no bins.
    noise
        What chance alone exceeds once in ten thousand times.
    labels
        Of the bins.
    then, now
        Share of the filled rows in each bin.
    filled_then, filled_now
        Share of rows with a value.
    new, gone
        Texts that came or went, beyond chance.
    """

    column: str
    psi: float
    noise: float
    labels: tuple[str, ...]
    then: tuple[float, ...]
    now: tuple[float, ...]
    filled_then: float
    filled_now: float
    filled_moved: bool
    new: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()

    @property
    def major(self) -> bool:
        """Whether the distribution changed much, beyond chance."""
        return self.psi >= MAJOR and self.psi > self.noise

    @property
    def moderate(self) -> bool:
        """Whether it changed, beyond chance, but not much."""
        return not self.major and self.psi >= MODERATE and self.psi > self.noise

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON-ready values."""
        return {**asdict(self), "major": self.major, "moderate": self.moderate}


def psi(then: Sequence[int], now: Sequence[int]) -> float:
    """Return the population stability index of two rows of counts over the same bins.

    Parameters
    ----------
    then, now
        Rows in each bin, at least 0; as many of one as of the other.

    Returns
    -------
    float
        At least 0. To every bin half a row is added (the prior of Krichevsky and Trofimov, 1981), or a
        thousandth of all rows where that is more, so that a rare text which is new does not outweigh all
        else; bins empty in both are left out, and equal shares in all bins are 0 exactly.
    """
    a, b = np.asarray(then, dtype=np.float64), np.asarray(now, dtype=np.float64)
    used = (a + b) > 0
    a, b = a[used], b[used]
    if len(a) < 2 or not a.sum() or not b.sum() or np.array_equal(a * b.sum(), b * a.sum()):
        return 0.0
    p, q = _smoothed(a), _smoothed(b)
    return float(((q - p) * np.log(q / p)).sum())


def _smoothed(counts: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    more = counts + max(_SMOOTHING, _SMOOTHING_SHARE * float(counts.sum()))
    shares: npt.NDArray[np.float64] = more / more.sum()
    return shares


def noise(bins: int, n: float, m: float, *, z: float = _Z) -> float:
    """Return the PSI that chance exceeds rarely where nothing changed.

    Parameters
    ----------
    bins
        Bins that are not empty.
    n, m
        Independent observations then and now; above 0.
    z
        Quantile of the normal distribution: 3.72 is one in ten thousand.

    Returns
    -------
    float
        (1/n + 1/m) times the quantile of χ² with ``bins - 1`` degrees of freedom, by the approximation of
        Wilson and Hilferty (PNAS 17, 1931).
    """
    freedom = max(bins - 1, 1)
    part = 2 / (9 * freedom)
    return (1 / n + 1 / m) * freedom * max(1 - part + z * math.sqrt(part), 0.0) ** 3


def compare_columns(
    then: Mapping[str, ColumnProfile],
    now: Mapping[str, ColumnProfile],
    *,
    seen: Mapping[str, ColumnProfile] | None = None,
) -> tuple[Drift, ...]:
    """Compare the columns that are there then and now, with the same type.

    Parameters
    ----------
    then
        Earlier profiles.
    now
        Later ones, counted in the bins of the earlier.
    seen
        Later ones in their own bins, in which new texts are found; none are looked for without.
    """
    drifts = []
    for column, old in then.items():
        new = now.get(column)
        if new is None or new.dtype != old.dtype or not old.rows or not new.rows:
            continue
        own = None if seen is None else seen.get(column)
        drifts.append(_compare(column, old, new, own.texts if own else (), own.counts if own else ()))
    return tuple(drifts)


def _compare(
    column: str, old: ColumnProfile, new: ColumnProfile, texts: tuple[str, ...], counts: tuple[int, ...]
) -> Drift:
    comparable = bool(old.counts) and len(old.counts) == len(new.counts) and old.filled and new.filled
    n, m = (max(min(c.filled_units, c.filled), 1) for c in (old, new))
    index = limit = 0.0
    then: tuple[float, ...] = ()
    later: tuple[float, ...] = ()
    if comparable:
        used = sum(a + b > 0 for a, b in zip(old.counts, new.counts, strict=True))
        index, limit = psi(old.counts, new.counts), noise(used, n, m)
        then = tuple(count / old.filled for count in old.counts)
        later = tuple(count / new.filled for count in new.counts)
    pooled = (old.filled + new.filled) / (old.rows + new.rows)
    units = [max(min(c.units, c.rows), 1) for c in (old, new)]
    deviation = math.sqrt(max(pooled * (1 - pooled), 0.0) * (1 / units[0] + 1 / units[1]))
    change = abs(new.share - old.share)
    known = set(old.texts)
    complete = bool(old.texts) and old.counts[-1] == 0
    came = [
        text
        for text, count in zip(texts, counts, strict=False)
        if complete and text not in known and n * count / max(new.filled, 1) >= _EXPECTED
    ]
    went = [
        text
        for text, a, b in zip(old.texts, old.counts, new.counts, strict=False)
        if comparable and b == 0 and m * a / old.filled >= _EXPECTED
    ]
    return Drift(
        column,
        index,
        limit,
        _labels(old),
        then,
        later,
        old.share,
        new.share,
        change >= _FILLED and change > _Z * deviation,
        tuple(came),
        tuple(went),
    )


def _labels(profile: ColumnProfile) -> tuple[str, ...]:
    if profile.texts:
        return (*profile.texts, "others")
    if not profile.edges:
        return ()
    ends = [f"{edge:g}" for edge in profile.edges]
    ends[0] = ends[1] if len(ends) > 1 else ends[0]  # the first edge lies just below the least value
    between = [f"{low} – {high}" for low, high in pairwise(ends[1:])]
    return (f"< {ends[0]}", f"= {ends[0]}", *between, f"> {ends[-1]}")[: len(profile.counts)]


def drift_findings(drifts: Sequence[Drift], *, table: str, then: str, now: str, what: str) -> list[Finding]:
    """Return what is told of compared columns: distributions, shares filled, new and vanished texts.

    Parameters
    ----------
    drifts
        The columns.
    table
        Their table.
    then, now
        What is compared, as in "the last run" and "this run".
    what
        Ends the names of the checks.
    """
    major = [d for d in drifts if d.major]
    moderate = [d for d in drifts if d.moderate]
    filled = [d for d in drifts if d.filled_moved]
    texts = [d for d in drifts if d.new or d.gone]
    mild = f"; {', '.join(d.column for d in moderate)} changed a little" if moderate else ""
    worst = sorted(major or moderate, key=lambda d: (-d.psi, d.column))
    return [
        Finding(
            f"distributions {what}",
            table,
            "WARN" if major else "PASS",
            len(major),
            sum(bool(d.then) for d in drifts),
            f"expected columns to be spread in {now} as in {then} (PSI below {MAJOR}), found more{mild}; a "
            "model that learned from the one sees the other: look whether the shop or the export changed"
            if major
            else f"expected columns to be spread in {now} as in {then} (PSI below {MAJOR}): they are{mild}",
            tuple(_told(d) for d in worst),
        ),
        Finding(
            f"shares filled {what}",
            table,
            "WARN" if filled else "PASS",
            len(filled),
            len(drifts),
            f"expected as many values in {now} as in {then}; look whether the source of a column changed",
            tuple(
                {
                    "column": d.column,
                    "filled then": round(d.filled_then, 4),
                    "filled now": round(d.filled_now, 4),
                }
                for d in filled
            ),
        ),
        Finding(
            f"texts {what}",
            table,
            "WARN" if texts else "PASS",
            sum(len(d.new) + len(d.gone) for d in texts),
            sum(len(d.labels) for d in drifts),
            f"expected the texts of {then} in {now}, found new ones or missed frequent ones; write them as "
            "before if they mean the same",
            tuple(
                {"column": d.column, "new": ", ".join(d.new) or None, "gone": ", ".join(d.gone) or None}
                for d in texts
            ),
        ),
    ]


def _told(drift: Drift) -> dict[str, Any]:
    moved = max(range(len(drift.then)), key=lambda i: abs(drift.now[i] - drift.then[i]))
    return {
        "column": drift.column,
        "psi": round(drift.psi, 3),
        "bin": drift.labels[moved],
        "then": f"{drift.then[moved]:.1%}",
        "now": f"{drift.now[moved]:.1%}",
    }
