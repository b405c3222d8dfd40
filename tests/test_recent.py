"""The one function of fresh behaviour, against a plain count."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_repo import schema as s
from feature_repo.behaviour import FRESH, PAIR, Shelf, recent_features
from feature_repo.names import NEVER_DAYS
from feature_repo.recent import History, to_micros

AT = datetime(2026, 3, 1, tzinfo=UTC)
INDEX = {"a": 0, "b": 1, "c": 2, "never": 3}
CATEGORY = {"a": 5, "b": 5, "c": -1, "never": 5}
SHELF = Shelf(INDEX, np.array([5, 5, -1, 5], dtype=np.int32), np.array([4.0, np.nan, 1.0, 3.0]))


def history(events: list[tuple[str, str, float]]) -> History:
    rows = sorted(events, key=lambda event: -event[2])
    return History.of((p, kind, to_micros(AT - timedelta(days=days)), 2.0) for p, kind, days in rows)


@given(
    st.lists(
        st.tuples(st.sampled_from(["a", "b", "c", "unknown"]), st.sampled_from(s.KINDS), st.integers(-3, 40)),
        max_size=20,
    )
)
def test_against_a_plain_count(events: list[tuple[str, str, int]]) -> None:
    got = recent_features(history([(p, k, float(d)) for p, k, d in events]), AT, SHELF)
    past = [event for event in events if event[2] > 0]
    customer = dict(zip(FRESH, got.customer.tolist(), strict=True))
    assert customer["days_since_event"] == pytest.approx(min((d for _, _, d in past), default=NEVER_DAYS))
    bought = [d for _, k, d in past if k == s.PURCHASE]
    assert customer["days_since_purchase"] == pytest.approx(min(bought, default=NEVER_DAYS))
    assert customer["events_7d"] == sum(d <= 7 for _, _, d in past)
    assert customer["purchases_7d"] == sum(d <= 7 for d in bought)
    assert customer["distinct_products"] == len({p for p, _, _ in past})
    assert got.product_idx.tolist() == sorted({INDEX[p] for p, _, _ in past if p in INDEX})
    pairs = got.pairs(np.arange(4, dtype=np.int32))
    assert pairs.shape == (4, len(PAIR))
    for product, index in INDEX.items():
        told = dict(zip(PAIR, pairs[index], strict=True))
        mine = [(k, d) for p, k, d in past if p == product]
        assert told["bought"] == sum(k == s.PURCHASE for k, _ in mine)
        assert told["returned"] == sum(k == s.RETURN for k, _ in mine)
        assert told["viewed"] == sum(k in (s.VIEW, s.CLICK, s.CART) for k, _ in mine)
        assert told["days_since_seen"] == pytest.approx(min((d for _, d in mine), default=NEVER_DAYS))
        days = sorted(d for k, d in mine if k == s.PURCHASE)
        assert told["days_since_bought"] == pytest.approx(min(days, default=NEVER_DAYS))
        gaps = [late - soon for soon, late in pairwise(days)]
        gap = sum(gaps) / len(gaps) if gaps else 0.0
        assert told["gap_days"] == pytest.approx(gap)
        assert told["lateness"] == pytest.approx(days[0] / gap if gap else 0.0)
        assert told["share"] == pytest.approx(len(days) / max(len(bought), 1))
        kin = [(k, d) for p, k, d in past if CATEGORY.get(p, -1) == CATEGORY[product] >= 0]
        since = [d for k, d in kin if k == s.PURCHASE]
        assert told["category_bought"] == len(since)
        assert told["category_viewed"] == sum(k in (s.VIEW, s.CLICK, s.CART) for k, _ in kin)
        assert told["category_share"] == pytest.approx(len(since) / max(len(bought), 1))
        assert told["days_since_category_bought"] == pytest.approx(min(since, default=NEVER_DAYS))
        price = {"a": 4.0, "c": 1.0, "never": 3.0}.get(product, 0.0)
        assert told["price_ratio"] == pytest.approx(price / 2.0 if bought else 0.0)


def test_nobody_knows_anything_of_a_stranger() -> None:
    got = recent_features(History.empty(), AT, SHELF).pairs(np.array([1, 3], dtype=np.int32))
    assert got.tolist() == [[default for _, default in PAIR.values()]] * 2


def test_an_event_at_the_very_instant_does_not_count() -> None:
    assert recent_features(history([("a", s.PURCHASE, 0.0)]), AT, SHELF).product_idx.tolist() == []


def test_rows_round_trip_through_the_view_and_json() -> None:
    told = history([("a", s.VIEW, 3.0), ("b", s.PURCHASE, 1.0)])
    rows = told.to_rows()
    assert History.of((p, k, at, x) for p, k, at, x in rows).to_rows() == rows
    assert len(History.from_row({})) == 0
    view = dict(
        zip(
            ("recent_products", "recent_kinds", "recent_at", "recent_values"),
            map(list, zip(*rows, strict=True)),
            strict=True,
        )
    )
    assert History.from_row(view).to_rows() == rows


def test_microseconds_are_exact() -> None:
    assert to_micros(datetime(1970, 1, 1, tzinfo=UTC)) == 0
    assert to_micros(datetime(2026, 3, 1, 0, 0, 0, 123457, tzinfo=UTC)) % 1_000_000 == 123457
