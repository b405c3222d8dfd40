"""Candidates: whom and what is asked, in which order a recommender would show it, and what the scores were worth."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import log_loss

from eval.candidates import Candidates, Scored, chance_days, first_by_hash, score
from eval.evaluate import Window
from eval.scorecard import (
    AUC_ALL,
    AUC_CLASS,
    AUC_NEWCOMERS,
    BASE_RATE,
    BIN_ENDS,
    CONTACTS,
    LOGLOSS,
    calibration_bins,
    expected_calibration_error,
    gains_curve,
    logloss,
    scorecard,
)
from feature_repo import schema as s
from serving.features import FrameReader
from serving.recommender import PurchasedPolicy, Query, Recommender
from tests.builders import AS_OF, make_bundle, state

AT = AS_OF + timedelta(hours=1)


def frame(pairs: list[tuple[str, str]]) -> pd.DataFrame:
    return pd.DataFrame(pairs, columns=[s.CUSTOMER_ID, s.PRODUCT_ID])


def window(bought: list[tuple[str, str]], before: list[tuple[str, str]] | None = None) -> Window:
    earlier = frame(before or [])
    return Window(AT, frame(bought), earlier, frozenset(earlier[s.PRODUCT_ID]))


@pytest.mark.parametrize("encoder", ["fold_in", "repeats", "none"])
@pytest.mark.parametrize("policy", ["exclude", "allow"])
def test_the_order_is_that_of_the_lists(encoder: str, policy: PurchasedPolicy) -> None:
    """Sorted by ``order``, the candidates of a customer are what the recommender answers when asked for all."""
    chain = {"fold_in": ("personal", "segment", "popular"), "repeats": ("personal", "popular")}
    bundle = make_bundle(encoder=encoder, repeat_weight=0.0, chain=chain.get(encoder, ("segment", "popular")))
    if bundle.vectors is not None:
        bundle.vectors[5] = 0.0  # of this one the model knows nothing
    # a customer with history, the others with a segment or nothing; "nobody" is unknown
    states = {
        "c01": state([("p003", s.VIEW, 2.0), ("p008", s.PURCHASE, 1.0)], segment="category:tea"),
        "c02": state([("p001", s.PURCHASE, 4.0)]),
        "nobody": state([], segment="category:tea"),
    }
    recommender = Recommender(bundle, FrameReader(states))
    customers = ["c01", "c02", "c03", "nobody"]
    held = window([(c, "p000") for c in customers])
    asked = Candidates.draw(held, bundle.catalog, [])
    scored = score(recommender, asked)
    for row, customer in enumerate(asked.customers):
        answer = recommender.recommend([Query(at=AT, customer_id=customer, n=100, purchased=policy)])[0]
        shown = {bundle.catalog.index[item.product_id] for item in answer.items}
        ordered = asked.columns[np.lexsort((asked.columns, -scored.order[row]))]
        ranked = [bundle.catalog.ids[column] for column in ordered.tolist() if column in shown]
        assert len(ranked) > 20
        if encoder == "repeats":  # among products bought on as many days, the order of lists looks at recency
            days = {item.product_id: item.score for item in answer.items if item.source.startswith("model")}
            assert [days.get(p) for p in ranked] == [days.get(p) for p in answer.product_ids]
        else:
            assert ranked == answer.product_ids


def test_a_stranger_scores_like_the_average_customer() -> None:
    bundle = make_bundle(repeat_weight=0.0)
    recommender = Recommender(bundle, FrameReader({}))
    asked = Candidates.draw(window([(c, "p000") for c in ("c00", "c01", "nobody")]), bundle.catalog, [])
    scored = score(recommender, asked)
    own = recommender.score(["c00", "c01"], [bundle.catalog.ids[c] for c in asked.columns], AT)
    np.testing.assert_allclose(scored.across[:2], own, atol=1e-6)
    np.testing.assert_allclose(scored.across[2], own.mean(axis=0), atol=1e-6)
    assert scored.chance_days is None
    assert chance_days(bundle) is None


def test_everything_is_asked_where_there_is_room_and_a_weighted_sample_elsewhere() -> None:
    catalog = make_bundle(products=200).catalog
    on_sale = np.array(catalog.ids)[catalog.on_sale(AT)].tolist()
    bought = [(f"b{i:02d}", on_sale[i]) for i in range(12)]
    known = [f"k{i:03d}" for i in range(100)] + [customer for customer, _ in bought[:8]]
    whole = Candidates.draw(window(bought), catalog, known)
    assert (len(whole.customers), len(whole.columns)) == (112, len(on_sale))
    assert (whole.row_weight == 1).all() and (whole.column_weight == 1).all()
    assert "all of them" in whole.told
    assert whole.known.sum() == 108 and whole.buys.sum() == 12
    part = Candidates.draw(window(bought), catalog, known, buyers=6, others=20, cells=26 * 40)
    assert len(part.buyers) == 6 and len(part.customers) == 26 and len(part.columns) == 40
    assert part.row_weight[part.buys].sum() == pytest.approx(12)
    assert part.row_weight[~part.buys].sum() == pytest.approx(100)
    assert part.column_weight.sum() == pytest.approx(len(on_sale))
    sold = [catalog.index[product] for _, product in bought]
    assert set(sold) <= set(part.columns.tolist())  # a purchase is never left out
    assert (part.column_weight[np.isin(part.columns, sold)] == 1).all()
    assert "a sample" in part.told
    assert part.bought.sum() == 6


def test_what_is_drawn_depends_on_the_ids_alone() -> None:
    ids = [f"c{i}" for i in range(1000)]
    drawn = first_by_hash(ids, 100)
    assert drawn == sorted(set(drawn)) and len(drawn) == 100
    kept = first_by_hash([i for i in ids if i in set(drawn) or i.endswith("7")], 100)
    assert set(kept) == set(drawn)  # who was drawn of more is drawn of fewer
    assert first_by_hash(["b", "a"], 5) == ["b", "a"]


def planted(bought: np.ndarray, across: np.ndarray, *, known: list[bool], days: int | None = None) -> tuple:
    """Candidates and scores from matrices (customers, products)."""
    catalog = make_bundle().catalog
    n, m = bought.shape
    asked = Candidates(
        at=AT,
        catalog=catalog,
        customers=[f"c{i}" for i in range(n)],
        buys=bought.any(axis=1),
        known=np.array(known),
        row_weight=np.ones(n),
        columns=np.arange(m, dtype=np.int32),
        column_weight=np.ones(m),
        bought=bought,
        owned=np.zeros_like(bought),
        population=(sum(known), m),
    )
    return asked, Scored(across, across, days)


def test_scorecard_by_hand() -> None:
    bought = np.array([[True, False, False], [False, False, False], [False, True, True]])
    across = np.array([[0.8, 0.1, 0.8], [0.2, 0.2, 0.2], [0.9, 0.5, 0.95]])
    asked, scored = planted(bought, across, known=[True, True, False], days=7)
    card = scorecard(asked, scored, existing=np.array([True, False, True]), horizon_days=7)
    # within: c0: its purchase ties one of two others and is above the other; c2: .5 and .95 beside .9
    assert card.within["allow"].to_dict() == pytest.approx({"c0": 0.75, "c2": 0.5})
    # c2 was not known, so the pairs are those of c0 and c1: one purchase at .8 beside .1, .8, .2, .2, .2
    assert card.rows.index.tolist() == ["c0", "c1"]
    assert card.rows[AUC_ALL].mean() == pytest.approx(4.5 / 5)
    assert card.rows.loc["c0", AUC_CLASS] == pytest.approx(0.75)  # c0 is the only existing one
    assert np.isnan(card.rows.loc["c1", AUC_CLASS])
    assert card.rows[BASE_RATE].tolist() == pytest.approx([1 / 3, 0])
    assert card.rows.loc["c0", LOGLOSS] == pytest.approx(-(np.log(0.8) + np.log(0.9) + np.log(0.2)) / 3)
    assert card.buyers == 1
    assert card.calibration is not None and card.calibration[:, 0].sum() == 6
    bare = scorecard(
        asked, replace(scored, chance_days=None), existing=np.array([True, False, True]), horizon_days=7
    )
    assert bare.calibration is None and bare.rows[LOGLOSS].isna().all()
    # chances within seven days say nothing of what is bought within fourteen
    later = scorecard(asked, scored, existing=np.array([True, False, True]), horizon_days=14)
    assert later.calibration is None and later.rows[LOGLOSS].isna().all()


def test_newcomers_are_judged_among_their_kind() -> None:
    bought = np.array([[True, False], [False, True], [True, False], [False, True]])
    across = np.array([[0.9, 0.8], [0.2, 0.1], [0.3, 0.4], [0.5, 0.6]])
    asked, scored = planted(bought, across, known=[True] * 4)
    existing, measured = np.array([True, False, False, False]), np.array([True, True, True, False])
    card = scorecard(asked, scored, existing=existing, measured=measured, horizon_days=7)
    areas = card.rows[AUC_NEWCOMERS]
    assert np.isnan(areas["c0"])
    # c1 and c2: purchases at .1 and .3 beside .2 and .4; c3: .6 above .5
    assert areas[["c1", "c2"]].mean() == pytest.approx(1 / 4)
    assert areas["c3"] == 1.0
    bare = scorecard(asked, scored, existing=existing, horizon_days=7)
    assert bare.rows[AUC_NEWCOMERS].isna().all()
    pd.testing.assert_series_equal(bare.rows[AUC_CLASS], card.rows[AUC_CLASS])


def test_a_ranker_gives_chances_within_its_horizon() -> None:
    bundle = make_bundle()
    policy = SimpleNamespace(ranker=SimpleNamespace(horizon_days=28))
    ranked = replace(bundle, manifest=SimpleNamespace(policy=policy))  # type: ignore[arg-type]
    assert chance_days(ranked) == 28


def test_products_bought_before_are_no_candidates_under_exclude() -> None:
    bought = np.array([[True, True, False]])
    asked, scored = planted(bought, np.array([[0.1, 0.9, 0.5]]), known=[True])
    card = scorecard(
        replace(asked, owned=np.array([[True, False, False]])),
        scored,
        existing=np.array([True]),
        horizon_days=7,
    )
    assert card.within["exclude"].tolist() == [1.0]
    assert card.within["allow"].tolist() == [0.5]


def test_logloss_is_that_of_sklearn() -> None:
    rng = np.random.default_rng(0)
    p, weights = rng.random((5, 40)), rng.uniform(1, 3, 40)
    bought = rng.random((5, 40)) < p
    expected = [log_loss(bought[i], p[i], sample_weight=weights, labels=[False, True]) for i in range(5)]
    assert logloss(p, bought, weights).tolist() == pytest.approx(expected, rel=1e-9)
    assert np.isfinite(logloss(np.array([[0.0, 1.0]]), np.array([[True, False]]), np.ones(2))).all()


def test_calibration_by_hand() -> None:
    chances = np.array([[0.0005, 0.03, 0.04], [0.6, 1.0, 0.0]])
    bought = np.array([[False, True, False], [True, True, False]])
    bins = calibration_bins(chances, bought, np.full((2, 3), 2.0))
    assert len(bins) == len(BIN_ENDS) - 1 == 10
    assert bins[0].tolist() == pytest.approx([4, 0.001, 0])
    assert bins[5].tolist() == pytest.approx([4, 0.14, 2])  # from .02 to .05
    assert bins[9].tolist() == pytest.approx([4, 3.2, 4])
    assert expected_calibration_error(bins) == pytest.approx((0.001 + 1.86 + 0.8) / 12)


def test_chances_that_are_true_are_calibrated() -> None:
    rng = np.random.default_rng(1)
    chances = rng.beta(0.3, 5, (2000, 100))
    bins = calibration_bins(chances, rng.random(chances.shape) < chances, np.ones(chances.shape))
    # the mean error of a bin of share w is about √(p(1−p)/(w·200,000)); summed over ten of them below .003
    assert expected_calibration_error(bins) < 0.003


def test_gains_by_hand() -> None:
    # two products, four customers of equal weight. The first product's only buyer has its highest score, the second's
    # only buyer shares the two lowest places with another
    scores = np.array([[9.0, 5.0], [3.0, 1.0], [2.0, 6.0], [1.0, 1.0]])
    bought = np.array([[True, False], [False, True], [False, False], [False, False]])
    reached, buyers = gains_curve(scores, bought, np.ones(4))
    assert buyers == 2
    curve = dict(zip(CONTACTS, reached.tolist(), strict=True))
    assert curve[0.0] == 0 and curve[1.0] == 1
    assert curve[0.25] == pytest.approx(0.5)
    assert curve[0.5] == pytest.approx(0.5)
    assert curve[0.75] == pytest.approx((1 + 0.5) / 2)


def test_equal_scores_reach_buyers_evenly() -> None:
    bought = np.random.default_rng(0).random((50, 8)) < 0.2
    reached, _ = gains_curve(np.ones((50, 8)), bought, np.random.default_rng(1).uniform(1, 4, 50))
    np.testing.assert_allclose(reached, CONTACTS, atol=1e-12)
