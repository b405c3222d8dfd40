"""What a policy would have earned, from the log of another one: before any customer is shown anything.

The log must say with which chance each action was taken. Inverse propensity scoring (IPS) weighs each logged reward
by how much likelier the new policy would have taken that action (Horvitz & Thompson, JASA 1952); its self-normalised
form (SNIPS) divides by the sum of the weights, which is steadier (Swaminathan & Joachims, NeurIPS 2015); the doubly
robust form (DR) weighs only what a model of rewards leaves unexplained, and is right where either the chances or the
model are (Dudík, Langford & Li, ICML 2011). Clipping bounds the weights, and buys steadiness with bias. Deliberately
absent: anything that learns a policy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from eval.experiment.moments import Floats
from eval.resampling import clustered_means
from eval.significance import Interval, ends
from feature_repo.errors import ConfigError, DataError

Ints = npt.NDArray[np.int64]
#: More of the new policy than this on actions that the log never shows cannot be valued from it.
MOST_UNSUPPORTED: Final = 0.01
_SURE: Final = 1e-6


@dataclass(frozen=True)
class Log:
    """What a policy did: one action a round, its reward, and the chance with which it was taken.

    Attributes
    ----------
    actions : int array, shape (rounds,)
    rewards : array of finite numbers, shape (rounds,)
    propensities : array of numbers in (0, 1], shape (rounds,)
    strata : int array, shape (rounds,)
        Within which the same actions could be taken, such as the position in a list.

    Raises
    ------
    DataError
        Shapes differ, there are fewer than two rounds, or a propensity is not in (0, 1].
    """

    actions: Ints
    rewards: Floats
    propensities: Floats
    strata: Ints

    def __post_init__(self) -> None:
        shapes = {array.shape for array in (self.actions, self.rewards, self.propensities, self.strata)}
        if len(shapes) != 1 or self.actions.ndim != 1 or len(self.actions) < 2:
            raise DataError(
                f"expected an action, reward, propensity and stratum for each of at least two rounds, found {shapes}"
            )
        if not np.isfinite(self.rewards).all():
            raise DataError(
                "expected finite rewards, found some that are not; count what was not rewarded as 0"
            )
        sound = (self.propensities > 0) & (self.propensities <= 1)
        if not sound.all():
            raise DataError(
                f"expected propensities above 0 and at most 1, found {int((~sound).sum())} of {len(sound)} that are "
                "not; log the chance with which each action was taken"
            )


@dataclass(frozen=True)
class PolicyValue:
    """The mean reward of a policy by each estimator, with intervals, and how much the log says about it.

    Attributes
    ----------
    ips, snips, dr : Interval
        Percentile bootstrap over rounds.
    effective : float
        How many rounds of the new policy's own log would say as much: (Σw)² / Σw² (Kish 1965).
    mean_weight : float
        Near 1 where the propensities are right and nothing is clipped.
    clipped : float
        Share of rounds whose weight was bounded.
    unsupported : float
        Share of the new policy on actions that the log never shows.
    """

    ips: Interval
    snips: Interval
    dr: Interval
    effective: float
    mean_weight: float
    clipped: float
    unsupported: float


def policy_value(
    log: Log,
    target: npt.ArrayLike,
    *,
    rewards: npt.ArrayLike | None = None,
    clip: float | None = None,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> PolicyValue:
    """Return what a policy would have earned a round in the place of the one that was logged.

    Parameters
    ----------
    log
        What the other policy did.
    target : array of numbers in [0, 1], shape (rounds, actions)
        The chance with which the new policy takes each action in each round; rows sum to 1.
    rewards : array, shape (rounds, actions), optional
        Expected reward of each action in each round, by a model that has not seen that round; ``tabular_rewards`` by
        default.
    clip : float, optional
        Largest weight.
    confidence, resamples, seed
        As in ``eval.significance``.

    Raises
    ------
    ConfigError
        ``clip`` is not positive.
    DataError
        Shapes do not fit, rows of ``target`` do not sum to 1, or more than a hundredth of the new policy falls on
        actions that the log never shows: nothing is known of their rewards.
    """
    chances = np.asarray(target, dtype=np.float64)
    _check_target(log, chances)
    if clip is not None and not clip > 0:
        raise ConfigError(f"expected a positive largest weight, found {clip}; leave it out to clip nothing")
    unsupported = _unsupported(log, chances)
    if unsupported > MOST_UNSUPPORTED:
        raise DataError(
            f"expected a log that shows what the new policy would do, found {unsupported:.1%} of it on actions "
            "that were never logged; log with some chance for every action, or value a policy nearer to the logged one"
        )
    expected = (
        tabular_rewards(log, chances.shape[1], seed=seed) if rewards is None else np.asarray(rewards, float)
    )
    if expected.shape != chances.shape:
        raise DataError(f"expected rewards of shape {chances.shape}, found {expected.shape}")
    rounds = np.arange(len(log.actions))
    full = chances[rounds, log.actions] / log.propensities
    weight = full if clip is None else np.minimum(full, clip)
    if not weight.sum() > 0:
        raise DataError(
            "expected some logged action that the new policy takes, found none; value another policy"
        )
    table = columns(weight, log.rewards, (chances * expected).sum(axis=1), expected[rounds, log.actions])
    means = clustered_means(table, rounds, resamples=resamples, seed=seed)

    def told(observed: float, drawn: Floats) -> Interval:
        low, high = ends(drawn, confidence)
        return Interval(observed, low, high, confidence)

    ips, mean_weight, dr = (float(mean) for mean in means.observed)
    drawn = means.resampled
    return PolicyValue(
        ips=told(ips, drawn[:, 0]),
        snips=told(ips / mean_weight, drawn[:, 0] / drawn[:, 1]),
        dr=told(dr, drawn[:, 2]),
        effective=float(weight.sum() ** 2 / (weight**2).sum()),
        mean_weight=mean_weight,
        clipped=0.0 if clip is None else float((full > clip).mean()),
        unsupported=unsupported,
    )


def columns(weight: Floats, rewards: Floats, expected: Floats, own: Floats) -> Floats:
    """Return what the estimators are means of, (rounds, 3): weight × reward, weight, and the doubly robust term.

    Parameters
    ----------
    weight, rewards : arrays, shape (rounds,)
    expected, own : arrays, shape (rounds,)
        Expected reward of what the new policy does, and of what was logged.
    """
    return np.column_stack([weight * rewards, weight, expected + weight * (rewards - own)])


def tabular_rewards(
    log: Log, actions: int, *, folds: int = 5, strength: float = 100.0, seed: int = 0
) -> Floats:
    """Return expected rewards by stratum and action, each round's from the other folds; shape (rounds, actions).

    Cross-fitting keeps a round's own reward out of what is expected of it (Chernozhukov et al., Econometrics Journal
    2018). Means are drawn towards that of the stratum as if ``strength`` rounds had shown it.
    """
    _, stratum = np.unique(log.strata, return_inverse=True)
    size = int(stratum.max()) + 1
    cell = stratum * actions + log.actions
    fold = np.random.default_rng(seed).permutation(len(cell)) % folds
    expected = np.zeros((len(cell), actions))
    for held in range(folds):
        seen = fold != held
        sums = np.bincount(cell[seen], log.rewards[seen], minlength=size * actions).reshape(size, actions)
        counts = np.bincount(cell[seen], minlength=size * actions).reshape(size, actions)
        mean = sums.sum(axis=1, keepdims=True) / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        table = (sums + strength * mean) / (counts + strength)
        expected[~seen] = table[stratum[~seen]]
    return expected


def _check_target(log: Log, chances: Floats) -> None:
    if chances.ndim != 2 or len(chances) != len(log.actions):
        raise DataError(
            f"expected a row of chances for each of {len(log.actions)} rounds, found shape {chances.shape}"
        )
    if log.actions.min() < 0 or log.actions.max() >= chances.shape[1]:
        raise DataError(
            f"expected actions from 0 to {chances.shape[1] - 1}, found {log.actions.min()} to {log.actions.max()}"
        )
    if not ((chances >= 0).all() and np.allclose(chances.sum(axis=1), 1, atol=_SURE)):
        raise DataError("expected chances of at least 0 that sum to 1 in every round, found others")


def _unsupported(log: Log, chances: Floats) -> float:
    """Return the share of the new policy on actions that are never logged in their stratum."""
    _, stratum = np.unique(log.strata, return_inverse=True)
    shown = np.zeros((int(stratum.max()) + 1, chances.shape[1]), dtype=bool)
    shown[stratum, log.actions] = True
    return float(np.where(shown[stratum], 0.0, chances).sum(axis=1).mean())
