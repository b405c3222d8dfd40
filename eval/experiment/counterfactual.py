"""What another bundle would have earned in the slots that chance decided, from the log, before anybody is shown it.

A slot shows with the chance ε any product of its pool, else what the rules put there. So each product of the pool had a
known chance, and the reward of what was shown can be weighed by how much likelier the other bundle would have shown it:
1 / chance where it would have shown just that, 0 elsewhere (``offpolicy``). What was shown less chance is valued on the
same slots with the same draws, and the difference decides, by the doubly robust estimator.

The estimand is the mean reward of such a slot with the rest of the answer as it was, over slots in whose pool the
bundle's pick was. More than a tenth of them outside, and the value would be of another shop: that is refused. So is
a log whose chances cannot be right, since what is shown without chance must weigh 1 a slot on average.

With m products in the pool a pick that is not the usual one is shown in ε/m of the slots only. An interval is told once
twenty such picks were shown and rewarded; before, resampling them would promise too much.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from eval.experiment.comparison import CLICKS, CONVERSION, VALUE, instant_of
from eval.experiment.counterfactual_results import (
    Chances,
    CounterfactualReading,
    CounterfactualSetting,
    SlotCounts,
    Value,
)
from eval.experiment.counterfactual_verdict import counterfactual_verdict
from eval.experiment.credits import BOUGHT, CLICKED, HOURS, PAID
from eval.experiment.moments import Floats
from eval.experiment.offpolicy import columns
from eval.experiment.shares import THRESHOLD
from eval.resampling import clustered_means
from eval.results import Estimate
from eval.significance import Interval, ends
from feature_repo import schema as s
from feature_repo.errors import ConfigError, DataError

#: Metric → what a product shown is worth.
WORTH: Final = {CLICKS: CLICKED, CONVERSION: BOUGHT, VALUE: PAID}
#: Of the slots; more picks outside the pool, and the rest no longer stands for all.
MOST_UNSUPPORTED: Final = 0.10
#: Of the answers; fewer that come out as logged, and they no longer stand for all.
LEAST_REBUILT: Final = 0.5
#: Picks shown by chance, before their weights are near enough to normal for a check.
_FEWEST_WEIGHED: Final = 100
_STRENGTH: Final = 100.0
_FOLDS: Final = 5

# columns of a frame of slots
UNIT: Final = "unit"
PLACE: Final = "place"
USUAL: Final = "usual"
PICK: Final = "pick"
SUPPORTED: Final = "supported"
REWARD: Final = "reward"
SLOTS: Final = (UNIT, s.AT, PLACE, s.PRODUCT_ID, s.PROPENSITY, USUAL, PICK, SUPPORTED, REWARD)


@dataclass(frozen=True)
class AskedCounterfactual:
    """What is asked; see ``CounterfactualSetting``."""

    bundle: str
    metric: str = CLICKS
    confidence: float = 0.95
    clip: float | None = None
    resamples: int = 2000
    hours: float = HOURS
    variant: str | None = None

    def __post_init__(self) -> None:
        if self.metric not in WORTH:
            raise ConfigError(
                f"expected a metric of {', '.join(WORTH)} with --counterfactual, found {self.metric!r}; choose one"
            )
        if not 0 < self.confidence < 1:
            raise ConfigError(f"expected a confidence between 0 and 1, found {self.confidence}; correct it")
        if self.clip is not None and not self.clip > 0:
            raise ConfigError(
                f"expected a positive largest weight, found {self.clip:g}; leave --clip out to bound nothing"
            )


@dataclass(frozen=True)
class LeftOut:
    """Slots that were left out before any was valued; see ``SlotCounts``."""

    gone: int = 0
    unrebuilt: int = 0
    immature: int = 0


def weight_of_usual(
    propensities: npt.ArrayLike, is_usual: npt.ArrayLike, units: npt.ArrayLike
) -> tuple[float, float]:
    """Return the mean weight of what is shown without chance, which is 1 where the chances are right, and a p-value.

    Parameters
    ----------
    propensities : array of numbers in (0, 1), shape (slots,)
    is_usual : bool array, shape (slots,)
        Whether a slot shows it.
    units : array, shape (slots,)
        The customers, whose slots are not independent.
    """
    return _mean_weight(np.asarray(is_usual, float) / np.asarray(propensities, float), np.asarray(units))


def _mean_weight(weight: Floats, units: npt.NDArray[np.generic]) -> tuple[float, float]:
    _, unit = np.unique(units, return_inverse=True)
    off = np.bincount(unit, weight - 1)
    error = float(np.sqrt((off**2).sum()))
    mean = float(weight.mean())
    return mean, 1.0 if error == 0 else float(2 * stats.norm.sf(abs(float(off.sum())) / error))


def value_slots(
    slots: pd.DataFrame,
    asked: AskedCounterfactual,
    left_out: LeftOut,
    *,
    usual_weight: tuple[float, float],
    name: str,
    now: pd.Timestamp,
    window_days: int,
    immature: bool = False,
    made_at: datetime | None = None,
    seed: int = 0,
) -> CounterfactualReading:
    """Value a bundle by slots that chance decided.

    Parameters
    ----------
    slots : DataFrame
        The columns of ``SLOTS``, a row a slot: whose it is (``unit``), what was shown with which chance, what is usual
        there, what the bundle picks, whether the pool had it, and the reward. Empty where the chances are not trusted.
    asked, left_out
        What was asked; what is not among the slots.
    usual_weight
        What ``weight_of_usual`` found over the whole log.
    name, now, window_days, immature, made_at
        As in ``reading.read``.

    Raises
    ------
    DataError
        There are no slots, fewer than half could be rebuilt, more than a tenth have a pick outside the pool, or all of
        them are of one customer.
    """
    setting = CounterfactualSetting(
        experiment=name,
        variant=asked.variant,
        bundle=asked.bundle,
        metric=asked.metric,
        window_days=window_days,
        hours=asked.hours,
        confidence=asked.confidence,
        clip=asked.clip,
        resamples=asked.resamples,
        now=instant_of(now),
        immature=immature,
    )
    chances = Chances(
        weight=usual_weight[0],
        p=usual_weight[1],
        pick_weight=None,
        pick_p=None,
        threshold=THRESHOLD,
        failed=usual_weight[1] < THRESHOLD,
    )
    if chances.failed:
        return _distrusted(setting, chances, slots, left_out, made_at or instant_of(now))
    _check(slots, left_out)
    unsupported = float(1 - slots[SUPPORTED].mean())
    held = slots[slots[SUPPORTED]].reset_index(drop=True)
    propensity, reward = held[s.PROPENSITY].to_numpy(float), held[REWARD].to_numpy(float)
    units = held[UNIT].to_numpy()
    shows_pick = (held[s.PRODUCT_ID] == held[PICK]).to_numpy()
    shows_usual = (held[s.PRODUCT_ID] == held[USUAL]).to_numpy()
    other = (held[PICK] != held[USUAL]).to_numpy()
    full = shows_pick / propensity
    weight = full if asked.clip is None else np.minimum(full, asked.clip)
    matched = shows_pick & other
    rewarded = int((reward[matched] != 0).sum())
    if int(matched.sum()) >= _FEWEST_WEIGHED or not other.any():
        mean, p = _mean_weight(full, units)
        chances = chances.model_copy(update={"pick_weight": mean, "pick_p": p, "failed": p < THRESHOLD})
    counts = _counts(held, left_out, slots=len(slots)).model_copy(
        update={
            "unsupported": unsupported,
            "same": float(1 - other.mean()),
            "matched": int(matched.sum()),
            "rewarded": rewarded,
            "effective": float(weight.sum() ** 2 / max((weight**2).sum(), 1e-300)),
            "clipped": 0.0 if asked.clip is None else float((full > asked.clip).mean()),
        }
    )
    if chances.failed:
        return _distrusted(setting, chances, slots, left_out, made_at or instant_of(now))
    own, picks, usuals = expected_rewards(held, [s.PRODUCT_ID, PICK, USUAL], seed=seed)
    table = np.column_stack(
        [
            columns(weight, reward, picks, own),
            columns(shows_usual / propensity, reward, usuals, own),
            reward,
        ]
    )
    _, cluster = np.unique(units, return_inverse=True)
    means = clustered_means(table, cluster, resamples=asked.resamples, seed=seed)
    values = _Values(means.observed, means.resampled, asked.confidence)
    target, usual, difference = values.of(0), values.of(3), values.difference(0, 3)
    logged = values.told(means.observed[6], means.resampled[:, 6])
    return CounterfactualReading(
        made_at=made_at or instant_of(now),
        setting=setting,
        chances=chances,
        counts=counts,
        target=target,
        usual=usual,
        difference=difference,
        logged=logged,
        verdict=counterfactual_verdict(setting, chances, counts, target, usual, difference),
    )


def expected_rewards(
    slots: pd.DataFrame, which: Sequence[str], *, folds: int = _FOLDS, seed: int = 0
) -> list[Floats]:
    """Return the expected reward of products in each slot, for each of some columns; of other customers' slots only.

    A product's mean reward in that place, drawn towards the place's mean as if a hundred slots had shown it. Folds are
    of whole customers, so that nobody's own reward is in what is expected of it (Chernozhukov et al., Econometrics
    Journal 2018).
    """
    _, unit = np.unique(slots[UNIT].to_numpy(), return_inverse=True)
    fold = (np.random.default_rng(seed).permutation(int(unit.max()) + 1) % folds)[unit]
    found = [np.zeros(len(slots)) for _ in which]
    for held in range(folds):
        inside = fold == held
        seen = slots[~inside]
        overall = float(seen[REWARD].mean()) if len(seen) else 0.0
        mean = seen.groupby(PLACE)[REWARD].mean()
        by = seen.groupby([PLACE, s.PRODUCT_ID])[REWARD].agg(["sum", "count"])
        asked = slots.loc[inside, PLACE]
        base = asked.map(mean).fillna(overall).to_numpy(float)
        for values, column in zip(found, which, strict=True):
            keys = pd.MultiIndex.from_arrays([asked, slots.loc[inside, column]])
            cell = by.reindex(keys).fillna(0.0)
            values[inside] = (cell["sum"].to_numpy() + _STRENGTH * base) / (
                cell["count"].to_numpy() + _STRENGTH
            )
    return found


@dataclass(frozen=True)
class _Values:
    """Estimates from means of columns (weight × reward, weight, doubly robust) that begin at some column."""

    observed: Floats
    drawn: Floats
    confidence: float

    def told(self, mean: float, drawn: Floats) -> Estimate:
        return Estimate.of(Interval(float(mean), *ends(drawn, self.confidence), self.confidence))

    def _snips(self, at: int) -> tuple[float, Floats]:
        with np.errstate(invalid="ignore", divide="ignore"):
            observed = self.observed[at] / self.observed[at + 1] if self.observed[at + 1] else 0.0
            drawn = np.where(self.drawn[:, at + 1] > 0, self.drawn[:, at] / self.drawn[:, at + 1], 0.0)
        return float(observed), drawn

    def of(self, at: int) -> Value:
        return Value(
            ips=self.told(self.observed[at], self.drawn[:, at]),
            snips=self.told(*self._snips(at)),
            dr=self.told(self.observed[at + 2], self.drawn[:, at + 2]),
        )

    def difference(self, a: int, b: int) -> Value:
        first, second = self._snips(a), self._snips(b)
        return Value(
            ips=self.told(self.observed[a] - self.observed[b], self.drawn[:, a] - self.drawn[:, b]),
            snips=self.told(first[0] - second[0], first[1] - second[1]),
            dr=self.told(
                self.observed[a + 2] - self.observed[b + 2], self.drawn[:, a + 2] - self.drawn[:, b + 2]
            ),
        )


def _check(slots: pd.DataFrame, left_out: LeftOut) -> None:
    made = len(slots) + left_out.unrebuilt
    if not made:
        raise DataError(
            "expected slots that chance decided, of answers whose bundle and rules are still here and whose days are "
            f"over, found none ({left_out.gone:,} without bundle or rules, {left_out.immature:,} too young); name "
            "the rules with --rules, or wait"
        )
    if len(slots) < LEAST_REBUILT * made:
        raise DataError(
            f"expected answers that come out again as they were logged, found {len(slots):,} of {made:,} slots; "
            "prices or availability have changed, --rules names other rules, or they were logged before conditions of "
            "requests were (a column of exposures)"
        )
    unsupported = float(1 - slots[SUPPORTED].mean())
    if unsupported > MOST_UNSUPPORTED:
        raise DataError(
            f"expected picks of the bundle in the pool that chance drew from, found {unsupported:.1%} outside; what "
            "was never shown cannot be valued: take a bundle of the same products, or try it in an experiment"
        )
    if slots[UNIT].nunique() < 2:
        raise DataError("expected slots of at least two customers, found those of one; wait")


def _counts(held: pd.DataFrame, left_out: LeftOut, *, slots: int) -> SlotCounts:
    return SlotCounts(
        answers=int(held[s.REQUEST_ID].nunique()) if s.REQUEST_ID in held else slots,
        slots=len(held),
        customers=int(held[UNIT].nunique()),
        gone=left_out.gone,
        unrebuilt=left_out.unrebuilt,
        immature=left_out.immature,
        unsupported=0.0,
        same=0.0,
        matched=0,
        rewarded=0,
        effective=0.0,
        clipped=0.0,
        first=instant_of(held[s.AT].min()),
        last=instant_of(held[s.AT].max()),
    )


def _distrusted(
    setting: CounterfactualSetting,
    chances: Chances,
    slots: pd.DataFrame,
    left_out: LeftOut,
    made_at: datetime,
) -> CounterfactualReading:
    counts = _counts(slots, left_out, slots=len(slots))
    return CounterfactualReading(
        made_at=made_at,
        setting=setting,
        chances=chances,
        counts=counts,
        target=None,
        usual=None,
        difference=None,
        logged=None,
        verdict=counterfactual_verdict(setting, chances, counts, None, None, None),
    )
