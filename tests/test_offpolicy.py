"""Off-policy evaluation: a planted bandit whose value is known, and a real log beside what the policy really earned."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from eval.experiment.offpolicy import Log, policy_value, tabular_rewards
from eval.significance import Interval
from feature_repo.errors import ConfigError, DataError

ACTIONS = 5
TRUE = np.array([[0.02, 0.05, 0.10, 0.20, 0.30], [0.30, 0.20, 0.10, 0.05, 0.02]])
LOGGED = np.array([[0.4, 0.3, 0.15, 0.1, 0.05], [0.1, 0.1, 0.2, 0.3, 0.3]])
TARGET = np.array([[0.1, 0.1, 0.2, 0.3, 0.3], [0.5, 0.2, 0.1, 0.1, 0.1]])
VALUE = float((TARGET * TRUE).sum(axis=1).mean())  # both contexts are as likely


def drawn(rounds: int, seed: int) -> tuple[Log, np.ndarray]:
    rng = np.random.default_rng(seed)
    context = rng.integers(2, size=rounds)
    action = (rng.random(rounds)[:, None] > LOGGED.cumsum(axis=1)[context]).sum(axis=1)
    reward = (rng.random(rounds) < TRUE[context, action]).astype(float)
    return Log(action, reward, LOGGED[context, action], context), TARGET[context]


def test_the_planted_value_is_in_the_interval_as_often_as_promised() -> None:
    repetitions = 200
    held = {"ips": 0, "snips": 0, "dr": 0}
    widths = dict.fromkeys(held, 0.0)
    for seed in range(repetitions):
        log, target = drawn(2000, seed)
        found = policy_value(log, target, resamples=200, seed=seed)
        for name in held:
            interval: Interval = getattr(found, name)
            held[name] += VALUE in interval
            widths[name] += interval.high - interval.low
    for name, count in held.items():
        # four standard errors of a coverage of .95; 200 resamples shorten an interval by about a percent
        assert count / repetitions == pytest.approx(0.95, abs=4 * np.sqrt(0.95 * 0.05 / repetitions)), name
    assert widths["dr"] < widths["ips"]  # the model of rewards takes out what differs between actions


def test_the_own_policy_earns_what_was_logged() -> None:
    log, _ = drawn(500, 1)
    found = policy_value(log, LOGGED[log.strata])
    assert found.ips.mean == pytest.approx(log.rewards.mean(), rel=1e-12)
    assert found.effective == pytest.approx(500)
    assert found.mean_weight == pytest.approx(1.0)


def test_doubly_robust_is_right_where_either_side_is() -> None:
    log, target = drawn(100_000, 2)
    lie = np.full(target.shape, 0.9)
    error = 4 * 0.003  # four standard errors: a weighted reward deviates by about 1 in a round
    assert policy_value(log, target, rewards=lie, resamples=100).dr.mean == pytest.approx(VALUE, abs=error)
    wrong = replace(log, propensities=np.full(len(log.actions), 0.2))
    found = policy_value(wrong, target, rewards=TRUE[log.strata], resamples=100)
    assert found.dr.mean == pytest.approx(VALUE, abs=error)
    assert abs(found.ips.mean - VALUE) > 2 * error  # which the weights alone do not survive


def test_rewards_shifted_by_a_constant_shift_the_normalised_value_by_it() -> None:
    log, target = drawn(2000, 3)
    moved = policy_value(replace(log, rewards=log.rewards + 7), target, resamples=100)
    plain = policy_value(log, target, resamples=100)
    assert moved.snips.mean - plain.snips.mean == pytest.approx(7.0, rel=1e-9)
    assert moved.ips.mean - plain.ips.mean == pytest.approx(7.0 * plain.mean_weight, rel=1e-9)


def test_clipping_bounds_weights_and_gains_effective_rounds() -> None:
    log, target = drawn(5000, 4)
    plain, clipped = policy_value(log, target), policy_value(log, target, clip=2.0)
    assert clipped.effective > plain.effective
    assert clipped.ips.mean < plain.ips.mean  # rewards are not negative, so a bounded weight can only lose
    assert 0 < clipped.clipped < 1 and plain.clipped == 0
    weight = target[np.arange(5000), log.actions] / log.propensities
    assert plain.effective == pytest.approx(weight.sum() ** 2 / (weight**2).sum())


def test_expected_rewards_have_not_seen_their_own_round() -> None:
    log, _ = drawn(400, 5)
    changed = log.rewards.copy()
    changed[17] += 100
    before = tabular_rewards(log, ACTIONS)
    after = tabular_rewards(replace(log, rewards=changed), ACTIONS)
    assert (before[17] == after[17]).all()
    assert (before != after).any()


def test_what_the_log_cannot_tell_is_refused() -> None:
    log, target = drawn(500, 6)
    # the fourth action is never shown in the first context, where the policy takes it in 3 of 10 rounds
    keep = ~((log.strata == 0) & (log.actions == 3))
    short = Log(*(array[keep] for array in (log.actions, log.rewards, log.propensities, log.strata)))
    with pytest.raises(DataError, match=r"found 1\d\.\d% of it on actions that were never logged"):
        policy_value(short, target[keep])
    with pytest.raises(DataError, match="sum to 1"):
        policy_value(log, target * 2)
    with pytest.raises(DataError, match="expected actions from 0 to 1"):
        policy_value(log, np.full((500, 2), 0.5))
    with pytest.raises(DataError, match="a row of chances for each of 500"):
        policy_value(log, target[:10])
    with pytest.raises(ConfigError, match="positive largest weight"):
        policy_value(log, target, clip=0)
    with pytest.raises(DataError, match="propensities above 0"):
        replace(log, propensities=np.zeros(500))
    with pytest.raises(DataError, match="finite rewards"):
        replace(log, rewards=np.full(500, np.nan))
    with pytest.raises(DataError, match="at least two rounds"):
        replace(log, rewards=np.ones(3))


@pytest.mark.realdata
def test_a_real_policy_is_valued_from_the_log_of_another(realdata: Path) -> None:
    """Open Bandit, men: what Thompson sampling earned, from the log of random choice, and the reverse."""
    logs: dict[str, Log] = {}
    for name in ("random", "bts"):
        rows = pd.read_csv(realdata / "open_bandit" / name / "men" / "men.csv")
        logs[name] = Log(
            *(rows[column].to_numpy() for column in ("item_id", "click", "propensity_score", "position"))
        )
    random, bts = logs["random"], logs["bts"]
    # chances of Thompson sampling, which changed by the hour, as the shares in which it showed the products by position
    shares = pd.crosstab(bts.strata, bts.actions, normalize="index")
    of_bts = policy_value(random, shares.loc[random.strata].to_numpy())
    of_random = policy_value(bts, np.full((len(bts.actions), 34), 1 / 34))
    assert bts.rewards.mean() == pytest.approx(0.0069) and random.rewards.mean() == pytest.approx(0.0046)
    for found, earned in ((of_bts, bts.rewards.mean()), (of_random, random.rewards.mean())):
        for estimate in (found.ips, found.snips, found.dr):
            assert earned in estimate
    # few of ten thousand rounds of one policy speak for the other
    assert of_bts.effective == pytest.approx(2869, abs=1)
    assert of_random.effective == pytest.approx(656, abs=1)
