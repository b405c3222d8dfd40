"""Slices: which kind of customer somebody was at the origin, so that a mean cannot hide whom it fails.

Each dimension sorts customers by what had happened before the origin. Attributes of customers without ``valid_from``
are today's: they sort rows of a report here, and enter no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import numpy as np
import pandas as pd

from eval.evaluate import EXISTING, NEW
from feature_repo import schema as s
from feature_repo.tables import Tables

STANDING: Final = "customers"
NEWCOMERS: Final = "new customers"
ACTIVITY: Final = "days with a purchase"
FAVOURITE: Final = "favourite category"
WITH_MEASURES: Final = "with measures"
WITHOUT_MEASURES: Final = "without measures"
_TIERS: Final = ((1, "1"), (2, "2 to 4"), (5, "5 to 9"), (10, "10 and more"))
_MOST: Final = 8  # values of a dimension told by name; the others are one
_OTHER: Final = "other"
_YEAR: Final = pd.Timedelta(days=365)


@dataclass(frozen=True)
class Facts:
    """What sorts customers: their purchases (customer_id, product_id, at), and what else the tables know of them.

    ``measured`` has the first instant at which anything was measured of a customer, ``signed_up`` when they signed
    up, ``seen`` their first interaction of any kind, each indexed by customer_id; ``categories`` maps a product to
    its category; ``attributes`` are the rows of the customers table with ``valid_from``.
    """

    purchases: pd.DataFrame
    seen: pd.Series[pd.Timestamp]
    measured: pd.Series[pd.Timestamp]
    signed_up: pd.Series[pd.Timestamp]
    categories: pd.Series[str]
    attributes: pd.DataFrame

    @classmethod
    def of(cls, tables: Tables) -> Facts:
        """Read them from the tables."""
        rows = tables.frame(s.INTERACTIONS, [s.CUSTOMER_ID, s.PRODUCT_ID, s.AT, s.KIND])
        rows = rows[rows[s.CUSTOMER_ID].notna()]
        purchases = rows[rows[s.KIND] == s.PURCHASE].drop(columns=s.KIND)
        products = tables.frame(s.PRODUCTS, [s.PRODUCT_ID, s.CATEGORY]).drop_duplicates(
            s.PRODUCT_ID, keep="last"
        )
        nothing = pd.DataFrame({s.CUSTOMER_ID: pd.Series(dtype=object), s.AT: rows[s.AT].iloc[:0]})
        measures = tables.frame(s.MEASURES, [s.CUSTOMER_ID, s.AT]) if tables.has(s.MEASURES) else nothing
        customers = pd.DataFrame({s.CUSTOMER_ID: pd.Series(dtype=object)})
        signed_up = nothing.set_index(s.CUSTOMER_ID)[s.AT]
        if tables.has(s.CUSTOMERS):
            customers = tables.frame(s.CUSTOMERS)
            signed_up = customers.groupby(s.CUSTOMER_ID)[s.SIGNED_UP_AT].min().dropna()
            customers = customers.drop(columns=s.SIGNED_UP_AT)
        return cls(
            purchases=purchases,
            seen=rows.groupby(s.CUSTOMER_ID)[s.AT].min(),
            measured=measures.groupby(s.CUSTOMER_ID)[s.AT].min(),
            signed_up=signed_up,
            categories=products.set_index(s.PRODUCT_ID)[s.CATEGORY],
            attributes=customers,
        )

    def measured_before(self, at: datetime) -> list[str] | None:
        """Return of whom anything had been measured before an instant; None where the shop measures nothing."""
        if self.measured.empty:
            return None
        return [str(customer) for customer in self.measured.index[self.measured < at]]

    def known(self, at: datetime) -> list[str]:
        """Return who had left any trace before an instant, in order: something done, measured, or signed."""
        traces = (self.seen, self.measured, self.signed_up)
        return sorted({str(customer) for trace in traces for customer in trace.index[trace < at]})


def labels(facts: Facts, customers: Sequence[str], at: datetime) -> pd.DataFrame:
    """Return the label of each customer in each dimension, as known at an instant.

    Returns
    -------
    DataFrame of object
        One row a customer (index: customer_id), one column a dimension; missing where it does not apply.
    """
    index = pd.Index(customers, name=s.CUSTOMER_ID)
    before = facts.purchases[
        (facts.purchases[s.AT] < at) & facts.purchases[s.CUSTOMER_ID].isin(set(customers))
    ]
    found = pd.DataFrame(index=index, dtype=object)
    days = before.assign(day=before[s.AT].dt.floor("D")).groupby(s.CUSTOMER_ID)["day"].nunique()
    count = days.reindex(index).fillna(0)
    found[STANDING] = np.where(count > 0, EXISTING, NEW)
    if len(facts.measured):
        has_measures = facts.measured.reindex(index) < pd.Timestamp(at)
        newcomer = pd.Series(
            np.where(has_measures, WITH_MEASURES, WITHOUT_MEASURES), index=index, dtype=object
        )
        found[NEWCOMERS] = newcomer.where(count == 0)
    tier = pd.Series(None, index=index, dtype=object)
    for least, name in _TIERS:
        tier[count >= least] = name
    found[ACTIVITY] = tier
    if facts.categories.notna().any():
        found[FAVOURITE] = _favourite(before, facts.categories, at).reindex(index)
    for name, values in _attributes(facts.attributes, index, at).items():
        found[name] = values
    return found.astype(object)


def told_labels(frames: Sequence[pd.DataFrame]) -> list[pd.DataFrame]:
    """Return the labels of several origins with the rarer values of a dimension under one name, the same for all."""
    everything = pd.concat(frames)
    told = [frame.copy() for frame in frames]
    for dimension in everything.columns:
        common = everything[dimension].value_counts()
        if len(common) <= _MOST:
            continue
        kept = set(common.index[: _MOST - 1])
        for frame in told:
            rare = frame[dimension].notna() & ~frame[dimension].isin(kept)
            frame.loc[rare, dimension] = _OTHER
    return told


def _favourite(before: pd.DataFrame, categories: pd.Series[str], at: datetime) -> pd.Series[str]:
    """Return the category each customer bought most lines of in the last 365 days; ties go to the first by name."""
    recent = before[before[s.AT] >= pd.Timestamp(at) - _YEAR]
    lines = recent.assign(category=recent[s.PRODUCT_ID].map(categories)).dropna(subset=["category"])
    counted = lines.groupby([s.CUSTOMER_ID, "category"]).size().reset_index(name="lines")
    counted = counted.sort_values([s.CUSTOMER_ID, "lines", "category"], ascending=[True, False, True])
    favourite: pd.Series[str] = counted.drop_duplicates(s.CUSTOMER_ID).set_index(s.CUSTOMER_ID)["category"]
    return favourite


def _attributes(customers: pd.DataFrame, index: pd.Index[str], at: datetime) -> dict[str, pd.Series[str]]:
    """Return each attribute that sorts customers: texts, truths, and numbers by their thirds."""
    if customers.empty:
        return {}
    known = customers[~(customers[s.VALID_FROM] > pd.Timestamp(at))]
    latest = known.sort_values(s.VALID_FROM, na_position="first", kind="stable").drop_duplicates(
        s.CUSTOMER_ID, keep="last"
    )
    rows = latest.set_index(s.CUSTOMER_ID).drop(columns=s.VALID_FROM).reindex(index)
    found = {}
    for name in rows.columns:
        values = rows[name]
        if pd.api.types.is_datetime64_any_dtype(values) or not values.notna().any():
            continue
        if pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values):
            values = _thirds(values)
        elif values.dropna().map(lambda value: value in (True, False)).all():
            values = values.map({True: "yes", False: "no"})
        elif values.nunique() > max(50, len(values) / 5):
            continue  # it names customers rather than sorting them
        found[str(name)] = values.astype(object)
    return found


def _thirds(values: pd.Series[float]) -> pd.Series[str]:
    low, high = values.quantile([1 / 3, 2 / 3])
    named = pd.Series(None, index=values.index, dtype=object)
    named[values <= low] = "lowest third"
    named[values > low] = "middle third"
    named[values > high] = "highest third"
    return named
