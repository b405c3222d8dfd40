"""Training data as it was known at an instant: interactions, catalog, customers and their features.

Every feature comes through ``point_in_time``, the guarded join: whatever the feature store does with the
rows (drop, reorder, repeat, retype), the caller gets exactly its own rows back, in its own order, or a
``DataError``. The vocabulary is what was known at ``as_of``, never a later id.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from feature_repo import names as v
from feature_repo import schema as s
from feature_repo.features import served_defaults
from feature_repo.recent import DAY_US, KIND_CODES, to_micros
from feature_repo.tables import Tables
from serving.catalog import REPURCHASE_DAYS, Catalog
from serving.errors import DataError
from serving.features import FeatureReader, FrameReader

if TYPE_CHECKING:
    from feast import FeatureStore

Join = Callable[[pd.DataFrame], pd.DataFrame]
_MIN_REPEATS = 5


@dataclass(frozen=True)
class IdMap:
    """Frozen sorted ids ↔ indices, with a hash of the content."""

    ids: tuple[str, ...]

    @classmethod
    def of(cls, ids: Sequence[str]) -> IdMap:
        """Build from ids in any order, with repeats."""
        return cls(tuple(sorted(set(ids))))

    @cached_property
    def index(self) -> dict[str, int]:
        """Id → index."""
        return {name: row for row, name in enumerate(self.ids)}

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the ids in order."""
        return hashlib.sha256("\x00".join(self.ids).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.ids)

    def encode(self, ids: pd.Series[str]) -> NDArray[np.int32]:
        """Return the index of each id, −1 for ids outside the map."""
        found: NDArray[np.int32] = pd.Index(self.ids).get_indexer(pd.Index(ids)).astype(np.int32)
        return found


@dataclass(frozen=True)
class Source:
    """Where a training set came from, and the customers (ids) and their feature rows that its reader knows."""

    tables: Tables
    store: FeatureStore
    known: tuple[str, ...]
    customer_features: pd.DataFrame

    def product_features(self, product_ids: Sequence[str], at: datetime) -> pd.DataFrame:
        """Return slow features, facts and attributes of each product as known at ``at``, in order."""
        keys = pd.DataFrame({s.PRODUCT_ID: list(product_ids)})
        keys[s.EVENT_TIMESTAMP] = pd.Timestamp(at)
        rows = _renamed(point_in_time(keys, feast_join(self.store, v.PRODUCT_SERVICE)))
        return rows.drop(columns=[s.PRODUCT_ID, s.EVENT_TIMESTAMP])


@dataclass(frozen=True)
class TrainingSet:
    """Interactions known at ``as_of`` as index arrays (rows,), with the catalog and the customers.

    ``customer_idx`` is −1 for anonymous rows: they count for products, not for customers. ``at`` is in
    microseconds since 1970; ``kinds`` are codes of ``KIND_CODES``; rows are in order of time. ``source`` tells where
    more can be had, None for data that came from elsewhere.
    """

    as_of: datetime
    customers: IdMap
    catalog: Catalog
    customer_idx: NDArray[np.int32]
    product_idx: NDArray[np.int32]
    kinds: NDArray[np.int8]
    at: NDArray[np.int64]
    reader: FeatureReader
    source: Source | None = None

    def __len__(self) -> int:
        return len(self.at)

    @property
    def age_days(self) -> NDArray[np.float64]:
        """Age of each row at ``as_of`` in days."""
        return np.asarray((to_micros(self.as_of) - self.at) / DAY_US)

    @property
    def is_purchase(self) -> NDArray[np.bool_]:
        """Which rows are purchases."""
        return np.asarray(self.kinds == KIND_CODES[s.PURCHASE])

    @classmethod
    def load(
        cls, tables: Tables, store: FeatureStore, as_of: datetime, *, also: Sequence[str] = ()
    ) -> TrainingSet:
        """Load what was known at ``as_of`` and join customer states for that instant.

        The reader knows the customers ``also`` too, who may have features and no interaction yet.

        Raises
        ------
        DataError
            No interaction lies before ``as_of``.
        """
        columns = [s.CUSTOMER_ID, s.PRODUCT_ID, s.AT, s.KIND]
        rows = tables.frame(s.INTERACTIONS, columns)
        last = rows[s.AT].max()
        rows = rows[rows[s.AT] < as_of].sort_values(
            [s.AT, s.CUSTOMER_ID, s.PRODUCT_ID, s.KIND], kind="stable"
        )
        if rows.empty:
            raise DataError(f"expected interactions before {as_of}, found none; choose a later instant")
        catalog = catalog_as_of(tables, rows, as_of, final=bool(last < as_of))
        customers = IdMap.of(rows[s.CUSTOMER_ID].dropna().tolist())
        known = IdMap.of([*customers.ids, *also]).ids
        states = customer_states(store, known, as_of)
        return cls(
            as_of=as_of,
            customers=customers,
            catalog=catalog,
            customer_idx=customers.encode(rows[s.CUSTOMER_ID]),
            product_idx=IdMap(tuple(catalog.ids)).encode(rows[s.PRODUCT_ID]),
            kinds=rows[s.KIND].map(KIND_CODES).to_numpy().astype(np.int8),
            at=rows[s.AT].dt.tz_localize(None).to_numpy().astype("datetime64[us]").astype(np.int64),
            reader=FrameReader.from_frame(states),
            source=Source(tables, store, known, states.drop(columns=[s.CUSTOMER_ID, s.EVENT_TIMESTAMP])),
        )

    def earlier(self, at: datetime, *, also: Sequence[str] = ()) -> TrainingSet:
        """Return what was known at an earlier instant; see ``load``."""
        source = self.origin
        return self.load(source.tables, source.store, at, also=also)

    @property
    def origin(self) -> Source:
        """Where it came from.

        Raises
        ------
        DataError
            It did not come from tables.
        """
        if self.source is None:
            raise DataError("expected data read from tables, found data from elsewhere; give tables")
        return self.source

    @cached_property
    def product_features(self) -> pd.DataFrame:
        """Slow features, facts and attributes of the catalog's products at ``as_of``, a row a product, in order."""
        return self.origin.product_features(self.catalog.ids, self.as_of)


def catalog_as_of(tables: Tables, rows: pd.DataFrame, as_of: datetime, *, final: bool) -> Catalog:
    """Return the products known at ``as_of``, with what was known of them.

    A product is known once it was launched, described (``valid_from``) or interacted with; in the final
    catalog every product of the table is. Price, availability and attributes of a row that is not dated
    are today's truth: in a past catalog they are empty. What the table does not have at all is never on sale: it is
    learnt from, and may be a slip of the pen.
    """
    products = tables.frame(s.PRODUCTS)
    described = set(products[s.PRODUCT_ID])
    dated = products[s.VALID_FROM].notna()
    products = products[~dated | (products[s.VALID_FROM] <= as_of)]
    products = products.sort_values(s.VALID_FROM, na_position="first", kind="stable").drop_duplicates(
        s.PRODUCT_ID, keep="last"
    )
    seen = set(rows[s.PRODUCT_ID])
    if not final:
        known = products[s.VALID_FROM].notna() | (products[s.LAUNCHED_AT] <= as_of)
        products = products[known | products[s.PRODUCT_ID].isin(seen)].copy()
        undated = products[s.VALID_FROM].isna()
        constant = {s.PRODUCT_ID, s.NAME, s.CATEGORY, s.LAUNCHED_AT, s.WITHDRAWN_AT, s.VALID_FROM}
        for name in products.columns.difference(list(constant)):
            products[name] = products[name].mask(undated)
    absent = sorted(seen - set(products[s.PRODUCT_ID]))
    if absent:
        told = [product in described for product in absent]
        added = pd.DataFrame({s.PRODUCT_ID: absent, s.AVAILABLE: told})
        products = pd.concat([products, added], ignore_index=True)
    products = products.sort_values(s.PRODUCT_ID, kind="stable").reset_index(drop=True)
    products[s.AVAILABLE] = products[s.AVAILABLE].astype("boolean").fillna(True)
    products[REPURCHASE_DAYS] = products[s.PRODUCT_ID].map(repurchase_days(rows))
    return Catalog(products)


def repurchase_days(rows: pd.DataFrame) -> pd.Series[float]:
    """Return, by product, the median days between two purchases of it by one customer.

    Products with fewer than five such gaps are left out: too few to speak of a rhythm.
    """
    bought = rows[(rows[s.KIND] == s.PURCHASE) & rows[s.CUSTOMER_ID].notna()]
    days = bought.assign(day=bought[s.AT].dt.floor("D"))[
        [s.CUSTOMER_ID, s.PRODUCT_ID, "day"]
    ].drop_duplicates()
    days = days.sort_values([s.CUSTOMER_ID, s.PRODUCT_ID, "day"])
    gaps = days.groupby([s.CUSTOMER_ID, s.PRODUCT_ID])["day"].diff().dt.days
    by_product = gaps.groupby(days[s.PRODUCT_ID]).agg(["median", "count"])
    usual: pd.Series[float] = by_product.loc[by_product["count"] >= _MIN_REPEATS, "median"]
    return usual


def customer_states(store: FeatureStore, customer_ids: Sequence[str], at: datetime) -> pd.DataFrame:
    """Return slow features, attributes and recent history of each customer as known at ``at``, in order.

    Missing features hold the declared defaults, as they do online.
    """
    keys = pd.DataFrame({s.CUSTOMER_ID: list(customer_ids)})
    keys[s.EVENT_TIMESTAMP] = pd.Timestamp(at)
    return states_at(store, keys)


def states_at(store: FeatureStore, keys: pd.DataFrame) -> pd.DataFrame:
    """Return what ``customer_states`` does, each ``customer_id`` at an ``event_timestamp`` of its own."""
    rows = _renamed(point_in_time(keys, feast_join(store, v.CUSTOMER_SERVICE)))
    for name, default in served_defaults(v.CUSTOMER_SERVICE).items():
        absent = rows[name].isna()
        if absent.any() and not isinstance(default, list):
            rows.loc[absent, name] = default
    return rows


def _renamed(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with the names that features have in the row of an entity."""
    return rows.rename(columns=lambda name: v.row_key(*name.split("__", 1)) if "__" in name else name)


def feast_join(store: FeatureStore, service: str) -> Join:
    """Return the join that asks ``store`` for the feature service called ``service``."""

    def join(keys: pd.DataFrame) -> pd.DataFrame:
        job = store.get_historical_features(
            entity_df=keys, features=store.get_feature_service(service), full_feature_names=True
        )
        joined: pd.DataFrame = job.to_df()
        return joined

    return join


def point_in_time(keys: pd.DataFrame, join: Join) -> pd.DataFrame:
    """Join features to ``keys`` and guard the result.

    Parameters
    ----------
    keys
        Entity columns and ``event_timestamp`` (timezone-aware); any index.
    join
        The store's join; may reorder rows and retype columns, must not lose, add or alter any.

    Returns
    -------
    DataFrame
        The rows of ``keys`` in their order with their own index and values, feature columns added.

    Raises
    ------
    DataError
        The instants have no time zone, or the join lost, repeated or altered rows.
    """
    if s.EVENT_TIMESTAMP in keys and not isinstance(keys[s.EVENT_TIMESTAMP].dtype, pd.DatetimeTZDtype):
        raise DataError(
            f"expected {s.EVENT_TIMESTAMP} with a time zone, found {keys[s.EVENT_TIMESTAMP].dtype}; "
            "say dt.tz_localize('UTC') if these are UTC"
        )
    asked = keys.reset_index(drop=True)
    asked[s.ROW_ID] = np.arange(len(asked), dtype=np.int64)
    joined = join(asked.copy())
    again = "the feature store's join cannot be trusted with these rows; do not train on them"
    if s.ROW_ID not in joined.columns or joined[s.ROW_ID].isna().any():
        raise DataError(f"expected the join to keep {s.ROW_ID}, found it missing; {again}")
    row_ids = joined[s.ROW_ID].astype(np.int64)
    if len(joined) != len(asked) or not row_ids.is_unique or not row_ids.isin(asked[s.ROW_ID]).all():
        raise DataError(
            f"expected {len(asked)} rows from the join, found {len(joined)} with {row_ids.nunique()} distinct; {again}"
        )
    joined = joined.set_index(row_ids.to_numpy()).sort_index()
    for name in asked.columns.difference([s.ROW_ID]):
        if name not in joined.columns:
            raise DataError(f"expected the join to keep the key {name}, found none; {again}")
        if not _equal(asked[name], joined[name]):
            raise DataError(f"expected the join to keep the values of {name}, found others; {again}")
    features = joined.drop(columns=[*asked.columns])
    result = pd.concat([asked.drop(columns=s.ROW_ID), features], axis=1)
    return result.set_index(keys.index)


def _equal(asked: pd.Series[Any], joined: pd.Series[Any]) -> bool:
    """Whether a key came back with its values and, numbers and times apart, its type."""
    if isinstance(asked.dtype, pd.DatetimeTZDtype):
        if not isinstance(joined.dtype, pd.DatetimeTZDtype):
            return False
        back = joined.dt.tz_convert(UTC).astype(asked.dt.tz_convert(UTC).dtype)
        return bool((back == asked.dt.tz_convert(UTC)).all())
    left, right = asked.tolist(), joined.tolist()
    return all(type(x) is type(y) and x == y for x, y in zip(left, right, strict=True))
