"""Every feature against a plain reference: expressions in Ibis against loops over rows, value by value.

The reference (``reference_features``) is written from the definitions in words. Both are asked at three instants
of two small shops by chance, and of a third one that is rough: orders that go on for days, instants that are
shared, ages that are exactly a window, quantities and discounts that are missing.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import ibis
import numpy as np
import pandas as pd
import pytest

from feature_repo import facts, snapshots
from feature_repo import names as v
from feature_repo import schema as s
from feature_repo.customer_features import CUSTOMER
from feature_repo.declared import Declarations
from feature_repo.engine import DuckDBEngine
from feature_repo.product_features import PRODUCT
from feature_repo.recent import to_micros
from feature_repo.staging import stage_events
from feature_repo.tables import Tables
from tests.reference_features import (
    Features,
    customer_facts_reference,
    customer_reference,
    product_facts_reference,
    product_reference,
)
from tests.rich_shop import DAYS, END, rich_shop, write_shop

EVENTS = 2000
FINAL = END + timedelta(microseconds=1)
CUT = END - timedelta(days=90, hours=5)
EARLY = END - timedelta(days=DAYS - 60)
ROUGH_SEED = 3
#: Midnights of the rough shop, in which every instant is a full quarter of a day.
ROUGH_FINAL = datetime(END.year, END.month, END.day, tzinfo=END.tzinfo) + timedelta(days=1)
ROUGH = (ROUGH_FINAL, ROUGH_FINAL - timedelta(days=60), ROUGH_FINAL - timedelta(days=DAYS - 60))
#: Ages in days at which an event just belongs to a window.
EDGES = (0, 7, 14, 30, 60, 90, 180, 365)
CASES = (
    *((f"seed {seed}", at) for seed in (1, 2) for at in (FINAL, CUT, EARLY)),
    *(("rough", at) for at in ROUGH),
)
UNTOLD = "not in products"
#: Dates that ``rich_shop`` declares constant.
CONSTANT = ("born_at",)
VIEWS = (v.CUSTOMER_FEATURES, v.PRODUCT_FEATURES, v.CUSTOMER_FACTS, v.PRODUCT_FACTS)


def rough_shop(seed: int) -> dict[str, pd.DataFrame]:
    """A shop with all that is at the edge: ties in time, orders of many days, gaps in numbers."""
    tables = rich_shop(seed, events=EVENTS)
    chance = np.random.default_rng(seed)
    for name, dated, step in (
        (s.PRODUCTS, s.VALID_FROM, "5D"),
        (s.PRODUCTS, s.LAUNCHED_AT, "5D"),
        (s.CUSTOMERS, s.VALID_FROM, "20D"),
        (s.MEASURES, s.AT, "1D"),
    ):
        tables[name][dated] = pd.to_datetime(tables[name][dated], utc=True).dt.floor(step)
    told = tables[s.PRODUCTS]
    told[s.AVAILABLE] = told[s.AVAILABLE].astype(object).where(chance.random(len(told)) > 0.1, None)
    told.loc[told.index[::9], s.VALID_FROM] = [
        pd.Timestamp(ROUGH[n % 3]) for n in range(len(told.index[::9]))
    ]
    told = tables[s.CUSTOMERS]
    told.loc[told.index[told[s.VALID_FROM].isna()][::3], s.SIGNED_UP_AT] = pd.Timestamp(ROUGH[1])
    again = told.drop_duplicates(s.CUSTOMER_ID).iloc[::5].assign(**{s.VALID_FROM: pd.NaT})
    again["born_at"] += pd.Timedelta(days=1)
    tables[s.CUSTOMERS] = pd.concat([told, again], ignore_index=True)
    tables[s.INTERACTIONS] = pd.concat(
        [_rough(tables[s.INTERACTIONS], tables[s.PRODUCTS], chance), _quiet()], ignore_index=True
    )
    return tables


def _rough(sold: pd.DataFrame, products: pd.DataFrame, chance: np.random.Generator) -> pd.DataFrame:
    """Rows at shared instants, some at the edge of a window or just when their product is told of anew."""
    sold[s.AT] = sold[s.AT].dt.floor("6h")
    edges = [pd.Timestamp(at) - pd.Timedelta(days=days) for at in ROUGH for days in EDGES]
    edges = [at for at in edges if at > sold[s.AT].min()]
    moved = chance.random(len(sold)) < 0.1
    sold.loc[moved, s.AT] = chance.choice(np.array(edges, dtype=object), int(moved.sum()))
    for product, since in products.groupby(s.PRODUCT_ID)[s.VALID_FROM]:
        own = sold.index[sold[s.PRODUCT_ID] == product]
        dated = since.dropna().tolist()[: len(own)]
        sold.loc[chance.choice(own, len(dated), replace=False), s.AT] = dated
    season = (sold[s.AT] - pd.Timestamp(0, tz="UTC")) // pd.Timedelta(days=50)
    named = chance.random(len(sold)) < 0.6
    letter = chance.choice(["a", "b"], len(sold))
    sold[s.ORDER_ID] = [
        f"o{number}{kind}" if held else None for number, kind, held in zip(season, letter, named, strict=True)
    ]
    sold.loc[chance.random(len(sold)) < 0.1, s.QUANTITY] = None
    sold.loc[chance.random(len(sold)) < 0.05, s.QUANTITY] = 0.0
    sold.loc[chance.random(len(sold)) < 0.1, s.DISCOUNT] = None
    sold.loc[chance.random(len(sold)) < 0.05, s.VALUE] = None
    sold.loc[chance.random(len(sold)) < 0.05, s.PRODUCT_ID] = UNTOLD
    sold.loc[chance.random(len(sold)) < 0.03, s.KIND] = None
    return sold


def _quiet() -> pd.DataFrame:
    """Customers without a category, of each class of recency and of orders a year."""
    rows = [
        (f"quiet {recency} {orders}", UNTOLD, ROUGH_FINAL - timedelta(days=recency + 2 * order), 3.0)
        for recency in (60, 61, 180, 181)
        for orders in (1, 2, 4, 5)
        for order in range(orders)
    ]
    frame = pd.DataFrame(rows, columns=[s.CUSTOMER_ID, s.PRODUCT_ID, s.AT, s.VALUE])
    return frame.astype({s.AT: "datetime64[us, UTC]"})


def test_the_rough_shop_is_rough() -> None:
    """It has what it is made for: long orders, shared instants, and purchases at the very edge of windows."""
    sold = rough_shop(ROUGH_SEED)[s.INTERACTIONS]
    bought = sold[(sold[s.KIND] == s.PURCHASE) & sold[s.CUSTOMER_ID].notna()]
    instants = bought.groupby([s.CUSTOMER_ID, s.ORDER_ID])[s.AT].nunique()
    assert (instants > 1).sum() > 30
    assert bought.duplicated([s.CUSTOMER_ID, s.AT]).sum() > 100
    for days in EDGES:
        assert sum((bought[s.AT] == at - timedelta(days)).sum() for at in ROUGH) > 2, days


def shop_of(name: str) -> dict[str, pd.DataFrame]:
    return rough_shop(ROUGH_SEED) if name == "rough" else rich_shop(int(name.split()[1]), events=EVENTS)


class Shop:
    """Tables of one shop, and what the engine makes of them."""

    def __init__(self, name: str, folder: Path) -> None:
        self.frames = shop_of(name)
        self.final = ROUGH_FINAL if name == "rough" else FINAL
        self.directory = write_shop(self.frames, folder)
        self.tables = Tables.open(self.directory)
        self.engine = DuckDBEngine(self.tables, folder / "scratch")
        self.events = stage_events(self.engine)
        self._engine_said: dict[datetime, dict[str, pd.DataFrame]] = {}
        self._reference_said: dict[datetime, dict[str, dict[str, Features]]] = {}
        self.measures = facts.stage_measures(self.engine)

    def engine_says(self, at: datetime) -> dict[str, pd.DataFrame]:
        """The four snapshots at an instant."""
        if at in self._engine_said:
            return self._engine_said[at]
        instant = ibis.literal(to_micros(at), "int64")
        customers = snapshots.customer_snapshot(self.engine, self.events, instant).execute()
        segments = ibis.memtable(customers[[s.CUSTOMER_ID, v.SEGMENT]])
        told = {
            v.CUSTOMER_FEATURES: customers,
            v.PRODUCT_FEATURES: snapshots.product_snapshot(
                self.engine, self.events, instant, segments
            ).execute(),
        }
        for view, table, entity in (
            (v.CUSTOMER_FACTS, s.CUSTOMERS, s.CUSTOMER_ID),
            (v.PRODUCT_FACTS, s.PRODUCTS, s.PRODUCT_ID),
        ):
            told[view] = facts.fact_snapshot(
                self.engine,
                self.measures if table == s.CUSTOMERS else None,
                instant,
                table=table,
                entity=entity,
                declared=Declarations.read(self.directory),
                final_us=to_micros(self.final),
            ).execute()
        self._engine_said[at] = told
        return told

    def reference_says(self, at: datetime) -> dict[str, dict[str, Features]]:
        """The same four from the reference."""
        if at in self._reference_said:
            return self._reference_said[at]
        known: dict[str, Any] = {"final": self.final, "constant": CONSTANT}
        told = {
            v.CUSTOMER_FEATURES: customer_reference(self.frames, at),
            v.PRODUCT_FEATURES: product_reference(self.frames, at),
            v.CUSTOMER_FACTS: customer_facts_reference(self.frames, at, **known),
            v.PRODUCT_FACTS: product_facts_reference(self.frames, at, **known),
        }
        self._reference_said[at] = told
        return told


@pytest.fixture(scope="module")
def shops(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Shop]]:
    opened = {name: Shop(name, tmp_path_factory.mktemp("shop")) for name in dict(CASES)}
    yield opened
    for shop in opened.values():
        shop.tables.close()


def agree(left: Any, right: Any) -> bool:
    """Equal, lists entry by entry, numbers within 1e-9."""
    if isinstance(left, list | np.ndarray) and isinstance(right, list):
        return len(left) == len(right) and all(agree(x, y) for x, y in zip(left, right, strict=True))
    if isinstance(left, str) or isinstance(right, str):
        return isinstance(left, str) and left == right
    return left is not None and abs(left - right) <= 1e-9 * max(1.0, abs(left), abs(right))


def differing(engine: pd.DataFrame, reference: dict[str, Features]) -> dict[str, str]:
    """Feature → what the engine and the reference say of the first entity of which they disagree."""
    entity = engine.columns[0]
    told = engine.set_index(entity)
    found = {}
    for name in told.columns.drop(s.EVENT_TIMESTAMP):
        wrong = [key for key in told.index if not agree(told[name][key], reference[key][name])]
        if wrong:
            key = wrong[0]
            found[name] = (
                f"{name} of {entity} {key}: the engine says {told[name][key]!r}, the reference "
                f"{reference[key][name]!r} ({len(wrong)} of {len(told)} differ)"
            )
    return found


@pytest.mark.parametrize(("name", "at"), CASES, ids=lambda value: str(value)[:10])
def test_the_engine_says_what_the_definitions_say(name: str, at: datetime, shops: dict[str, Shop]) -> None:
    engine, reference = shops[name].engine_says(at), shops[name].reference_says(at)
    found: dict[str, str] = {}
    for view in VIEWS:
        rows = engine[view]
        keys = rows.iloc[:, 0].tolist()
        assert keys == sorted(reference[view]), view
        assert len(keys) > 5, view
        assert (rows[s.EVENT_TIMESTAMP] == pd.Timestamp(at).tz_localize(None)).all(), view
        for key in keys:
            assert set(reference[view][key]) == set(rows.columns[1:-1]), (view, key)
        found |= {f"{view}:{feature}": what for feature, what in differing(rows, reference[view]).items()}
    assert not found, "\n" + "\n".join(f"{view}: {what}" for view, what in found.items())


def test_the_reference_covers_every_listed_feature(shops: dict[str, Shop]) -> None:
    shop = next(iter(shops.values()))
    listed = {
        v.CUSTOMER_FEATURES: CUSTOMER,
        v.PRODUCT_FEATURES: PRODUCT,
        v.CUSTOMER_FACTS: facts.fact_features(shop.engine, s.CUSTOMERS),
        v.PRODUCT_FACTS: facts.fact_features(shop.engine, s.PRODUCTS),
    }
    reference = shop.reference_says(CUT)
    for view, features in listed.items():
        names = {feature.name for feature in features}
        assert len(names) == len(features), view
        for key, told in reference[view].items():
            assert set(told) == names, (view, key)


def test_the_comparison_sees_a_difference(shops: dict[str, Shop]) -> None:
    """A law that could not fail would say nothing: a small change of any value is seen."""
    shop = next(iter(shops.values()))
    rows = shop.engine_says(CUT)[v.PRODUCT_FACTS].copy()
    reference = shop.reference_says(CUT)[v.PRODUCT_FACTS]
    assert not differing(rows, reference)
    rows.loc[3, "best_before_days"] += 1e-4
    assert set(differing(rows, reference)) == {"best_before_days"}
