"""Visitors of the simulated world, and what experiments on them find: held against expectations that are exact."""

from __future__ import annotations

import numpy as np
import pytest

from eval.benchmarks.agreement import METHODS, Method, Stage, _rates, agreement, drafted
from eval.benchmarks.shown import Menu, Variant, left_to_chance, other_lists
from eval.experiment.offpolicy import Log, policy_value
from eval.world import WorldConfig, simulate
from eval.world_visitors import Visitors
from feature_repo.errors import ConfigError
from serving.interleaving import draft

N = 6


@pytest.fixture(scope="module")
def visitors() -> Visitors:
    config = WorldConfig(customers=300, products=60, months=4, seed=3)
    return Visitors.of(simulate(config).truth, at=config.ends_at, days=28)


@pytest.fixture(scope="module")
def menu(visitors: Visitors) -> Menu:
    """Good lists, so that what chance shows is worse."""
    sold = visitors.chance.max(axis=0) > 0
    allowed = np.broadcast_to(sold, visitors.chance.shape).copy()
    noise = np.random.default_rng(0).normal(size=allowed.shape)
    return Menu(np.argsort(-visitors.chance * np.exp(noise), axis=1)[:, :N], allowed)


def silent(what: str, done: int, total: int) -> None:
    pass


def test_those_who_are_there_come_as_often_as_expected(visitors: Visitors) -> None:
    hidden = visitors.truth.customers.iloc[visitors.rows]
    at = visitors.truth.config.ends_at
    assert (hidden["signed_up_at"] <= at).all() and (hidden["alive_until"] > at).all()
    assert len(visitors.ids) < len(visitors.truth.customers)
    assert (visitors.expected <= hidden["visits_per_day"].to_numpy() * 28 + 1e-9).all()
    with pytest.raises(ConfigError, match="more than 0 days"):
        Visitors.of(visitors.truth, at=at, days=0)


@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0])
def test_expected_clicks_are_the_mean_of_drawn_ones(visitors: Visitors, menu: Menu, epsilon: float) -> None:
    rng = np.random.default_rng(1)
    who = np.repeat(np.arange(len(visitors.ids)), 600)
    shown = menu.draw(who, epsilon, rng=rng)
    clicked, bought = visitors.outcomes(visitors.visits(who, rng=rng), shown, rng=rng)
    counts = clicked.sum(axis=1)
    drawn = counts.mean(), counts.std() / len(who) ** 0.5
    assert abs(drawn[0] - menu.expected_clicks(visitors, epsilon).mean()) < 4 * drawn[1]
    assert 0 < bought.sum() < clicked.sum() and not (bought & ~clicked).any()


def test_lists_hold_what_may_be_shown_once(visitors: Visitors, menu: Menu) -> None:
    who = np.repeat(np.arange(len(visitors.ids)), 20)
    for epsilon in (0.0, 0.5, 1.0):
        shown = menu.draw(who, epsilon, rng=np.random.default_rng(2))
        assert menu.allowed[who[:, None], shown].all()
        assert (np.diff(np.sort(shown, axis=1), axis=1) > 0).all()
    assert (menu.draw(who, 0.0, rng=np.random.default_rng(2)) == menu.usual[who]).all()


def test_beyond_the_end_of_a_list_nothing_is_clicked(visitors: Visitors) -> None:
    who = np.arange(len(visitors.ids))
    nothing = np.full((len(who), N), -1)
    rng = np.random.default_rng(0)
    clicked, bought = visitors.outcomes(visitors.visits(who, rng=rng), nothing, rng=rng)
    assert not clicked.any() and not bought.any()
    assert (visitors.expected_clicks(nothing) == 0).all()


@pytest.mark.parametrize("loss", [0.0, 0.05, 0.3])
def test_the_treatment_is_as_much_worse_as_asked(visitors: Visitors, menu: Menu, loss: float) -> None:
    control = Variant(menu, 0.1)
    clicks = control.clicks(visitors)
    by_chance = left_to_chance(visitors, control, loss)
    assert by_chance.clicks(visitors) / clicks - 1 == pytest.approx(-loss, abs=1e-9)
    other = other_lists(visitors, control, loss, rng=np.random.default_rng(0))
    assert other.clicks(visitors) / clicks - 1 == pytest.approx(-loss, abs=1e-9)
    assert (other.menu.usual != menu.usual).any() == (loss > 0)
    assert other.epsilon == pytest.approx(0.1, abs=0.02)
    with pytest.raises(ConfigError, match="expected a loss from 0 to below"):
        left_to_chance(visitors, control, 0.99)


def test_many_drafts_are_those_of_the_service() -> None:
    rng = np.random.default_rng(4)
    lists = np.array([[rng.permutation(15)[:N] for _ in range(2)] for _ in range(200)])
    coins = rng.random((200, N)) < 0.5
    shown, team = drafted(lists[:, 0], lists[:, 1], coins)
    for row, (first, second) in enumerate(lists.tolist()):
        picks = draft(first, second, N, iter(coins[row].tolist()))
        assert [pick.team for pick in picks] == team[row].tolist()
        assert [(first, second)[pick.team][pick.place] for pick in picks] == shown[row].tolist()


def test_a_loss_of_a_third_is_found_by_all_and_none_where_there_is_none(
    visitors: Visitors, menu: Menu
) -> None:
    control = Variant(menu, 0.1)
    for treatment in (
        left_to_chance(visitors, control, 0.33),
        other_lists(visitors, control, 0.33, rng=np.random.default_rng(0)),
    ):
        for method in METHODS:
            found = Stage(visitors, control, treatment).run(method, 4_000, np.random.default_rng(5))
            assert found.p < 0.01 and found.high < 0, method
            turned = Stage(visitors, treatment, control).run(method, 4_000, np.random.default_rng(6))
            if turned.picks:  # of good products that chance alone shows a log knows little
                assert turned.estimate > 0 and turned.p > found.p
            else:
                assert turned.p < 0.01 and turned.low > 0, method
    alike = Stage(visitors, control, control)
    ab: Method = "ab"
    alarms = [alike.run(ab, 500, np.random.default_rng([7, run])).p < 0.05 for run in range(200)]
    drafts = [alike.run("interleaving", 500, np.random.default_rng([8, run])).p < 0.05 for run in range(200)]
    assert 0.01 <= np.mean(alarms) <= 0.1 and 0.01 <= np.mean(drafts) <= 0.1
    assert alike.run("doubly_robust", 500, np.random.default_rng(9)).estimate == 0.0


def test_doubly_robust_is_right_on_average(visitors: Visitors, menu: Menu) -> None:
    """With half of all places explored there is enough of everything, so that the mean of runs is the truth."""
    control = Variant(menu, 0.5)
    treatment = other_lists(visitors, control, 0.2, rng=np.random.default_rng(0))
    gap = treatment.clicks(visitors) - control.clicks(visitors)
    stage = Stage(visitors, control, treatment)
    found = [stage.run("doubly_robust", 2_000, np.random.default_rng([1, run])).estimate for run in range(60)]
    # what is left to choose from in a place differs by a product or two of sixty
    assert np.mean(found) == pytest.approx(gap, abs=4 * np.std(found) / 60**0.5 + 0.02 * abs(gap))
    assert np.std(found) < abs(gap) / 2


def test_doubly_robust_is_that_of_off_policy_evaluation(visitors: Visitors, menu: Menu) -> None:
    """In the first place, before which nothing stands, and with the same model of rewards: the very number."""
    control = Variant(menu, 0.4)
    treatment = other_lists(visitors, control, 0.2, rng=np.random.default_rng(0))
    rng = np.random.default_rng(2)
    who = rng.integers(len(visitors.ids), size=3_000)
    shown = control.draw(who, rng=rng)
    clicked = visitors.outcomes(visitors.visits(who, rng=rng), shown, rng=rng)[0].astype(float)
    customer = np.arange(len(who))
    ours = Stage(visitors, control, treatment).robust(who, shown, clicked, customer)[:, 0]

    pool, products = menu.pool[who], menu.allowed.shape[1]
    eligible = menu.allowed[who].copy()
    np.put_along_axis(eligible, menu.usual[who, 1:], False, axis=1)
    usual = menu.usual[who]
    expected = np.zeros((len(who), products))
    for fold in range(5):
        test, seen = customer % 5 == fold, customer % 5 != fold
        kinds = (shown[seen] == usual[seen], shown[seen] != usual[seen])
        by_usual, by_chance = (_rates(shown[seen], clicked[seen], kind, products)[0] for kind in kinds)
        expected[test] = np.where(np.arange(products) == usual[test, :1], by_usual, by_chance)
    log = Log(
        actions=shown[:, 0],
        rewards=clicked[:, 0],
        propensities=0.4 / pool + np.where(shown[:, 0] == usual[:, 0], 0.6, 0.0),
        strata=np.zeros(len(who), dtype=np.int64),
    )
    values = []
    for variant in (treatment, control):
        target = np.where(eligible, variant.epsilon / pool[:, None], 0.0)
        target[np.arange(len(who)), variant.menu.usual[who, 0]] += 1 - variant.epsilon
        values.append(policy_value(log, target, rewards=expected, resamples=100).dr.mean)
    assert values[0] != values[1]
    assert ours.mean() == pytest.approx(values[0] - values[1], abs=1e-12)


def test_the_same_seed_gives_the_same_figures(visitors: Visitors, menu: Menu) -> None:
    given = {"loss": 0.3, "first": 3_000, "runs": 5, "progress": silent}
    told = agreement(visitors, menu, **given, seed=1)
    assert told == agreement(visitors, menu, **given, seed=1) != agreement(visitors, menu, **given, seed=2)
    for pair in told["pairs"].values():
        assert all(method["agrees"] for method in pair["methods"].values())
        needed = {name: method["customers_for_80"] for name, method in pair["methods"].items()}
        assert needed["interleaving"] < needed["ab"]
    nothing = agreement(visitors, menu, loss=0.0, first=2_000, runs=5, progress=silent)
    for pair in nothing["pairs"].values():
        assert {method["customers_for_80"] for method in pair["methods"].values()} == {None}


def test_lists_that_are_too_short_are_refused(visitors: Visitors, menu: Menu) -> None:
    short = menu.usual.copy()
    short[3, -1] = -1
    with pytest.raises(ConfigError, match="found fewer for 1 of"):
        Menu(short, menu.allowed)
