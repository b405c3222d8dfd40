"""One row a customer: which variant they saw first and when, and what they did in the window that began then.

The customer is what was assigned, so the customer is what is counted: every exposure and purchase is gathered into
one row, once. What was done before the first exposure is the customer's own past; nothing of the window is in it.
Who saw two variants belongs to neither; who was never identified cannot be followed; whose window is not over has
not had the time. All of them are counted and told.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd

from eval.evaluate import EXISTING, NEW
from feature_repo import schema as s
from feature_repo.errors import ConfigError, DataError

EXPERIMENT: Final = "experiment"
VARIANT: Final = "variant"
LATENCY: Final = "latency_ms"
FORCED: Final = "forced"
#: Columns of ``exposures`` that are read; ``latency_ms`` only where it is there.
EXPOSED: Final = (s.REQUEST_ID, s.AT, s.CUSTOMER_ID, EXPERIMENT, VARIANT, s.PRODUCT_ID)

# columns of the rows that are made
START: Final = "start"
END: Final = "end"
STANDING: Final = "customer"
EXPOSURES: Final = "exposures"
PURCHASES: Final = "purchases"
CONVERTED: Final = "converted"
SPENT: Final = "value"
CLICKS: Final = "clicks"
RETURNS: Final = "returns"
WAITED: Final = "latency"
PAST: Final = "past_"

#: More customers than this share in two variants is no accident: something assigns them anew.
MOST_CROSSED: Final = 0.01


@dataclass(frozen=True)
class Enrolled:
    """Customers of an experiment, and those who were left out.

    Attributes
    ----------
    rows : DataFrame
        A row a customer: ``customer_id``, ``variant``, ``start``, ``end``, ``standing`` (new or existing), the
        counts and sums of the window, and those of the past (``past_…``).
    seen : dict
        Variant → customers who saw it and no other, the window over or not.
    crossed, immature, anonymous
        Customers in two variants; customers whose window is not over; exposures of nobody known.
    """

    rows: pd.DataFrame
    seen: dict[str, int]
    crossed: int
    immature: int
    anonymous: int


def enrol(
    exposures: pd.DataFrame,
    interactions: pd.DataFrame,
    name: str,
    *,
    now: pd.Timestamp,
    window_days: int = 14,
    past_days: int = 56,
    immature: bool = False,
) -> Enrolled:
    """Join the exposures of an experiment, once a customer, to what the customers did.

    Parameters
    ----------
    exposures : DataFrame
        What was shown, a row a product: the columns of ``EXPOSED`` as ``nextbest events export`` writes them.
    interactions : DataFrame
        ``customer_id``, ``at``, ``kind``, ``value``.
    name
        The experiment.
    now : Timestamp, UTC
        Until when the data are known.
    window_days
        Length of the window that begins with a customer's first exposure.
    past_days
        Length of the past that ends there.
    immature
        Keep customers whose window is not over, with what they did so far.

    Raises
    ------
    ConfigError
        A window or past of no days.
    DataError
        A column is missing, nothing is known of the experiment, more than a hundredth of its customers saw two
        variants, or nobody is left.
    """
    if window_days < 1 or past_days < 1:
        raise ConfigError(
            f"expected a window and a past of at least a day, found {window_days} and {past_days}; give more"
        )
    for frame, wanted, what in (
        (exposures, EXPOSED, "exposures"),
        (interactions, (s.CUSTOMER_ID, s.AT, s.KIND, s.VALUE), s.INTERACTIONS),
    ):
        if missing := [column for column in wanted if column not in frame]:
            raise DataError(
                f"expected the columns {', '.join(wanted)} in {what}, found no {', '.join(missing)}; "
                "write the table with `nextbest events export`"
            )
    shown = _of(exposures, name)
    shown = shown[shown[s.AT] <= now]
    unknown = shown[s.CUSTOMER_ID].isna()
    anonymous = int(shown.loc[unknown, s.REQUEST_ID].nunique())
    shown = shown[~unknown]
    requests = shown.drop_duplicates([s.CUSTOMER_ID, s.REQUEST_ID])
    variants = requests.groupby(s.CUSTOMER_ID)[VARIANT].nunique()
    crossers = variants.index[variants > 1]
    if len(variants) and len(crossers) > MOST_CROSSED * len(variants):
        raise DataError(
            f"expected every customer of {name} in one variant, found {len(crossers):,} of {len(variants):,} in "
            "two or more; see why customers are assigned anew (another salt, two ids, an override) and begin again"
        )
    requests = requests[~requests[s.CUSTOMER_ID].isin(crossers)]
    first = requests.sort_values(s.AT, kind="stable").drop_duplicates(s.CUSTOMER_ID)
    rows = first[[s.CUSTOMER_ID, VARIANT, s.AT]].rename(columns={s.AT: START}).reset_index(drop=True)
    rows[END] = rows[START] + pd.Timedelta(days=window_days)
    seen = {str(variant): int(count) for variant, count in rows[VARIANT].value_counts().items()}
    is_over = rows[END] <= now
    unripe = int((~is_over).sum())
    if not immature:
        rows = rows[is_over].reset_index(drop=True)
    if rows.empty:
        raise DataError(
            f"expected customers of {name} whose {window_days} days are over by {now:%Y-%m-%d %H:%M} UTC, found none "
            f"of {unripe:,}; wait, give fewer --window days, or add --immature to read them so far"
        )
    rows = _with_exposures(rows, requests)
    rows = _with_outcomes(rows, interactions, now=now, past_days=past_days)
    return Enrolled(rows, seen, len(crossers), unripe, anonymous)


def _of(exposures: pd.DataFrame, name: str) -> pd.DataFrame:
    shown = exposures[(exposures[EXPERIMENT] == name) & exposures[VARIANT].notna()]
    if shown.empty:
        there = sorted(exposures[EXPERIMENT].dropna().unique())
        raise DataError(
            f"expected exposures of the experiment {name!r}, found those of {', '.join(there) or 'none'}; correct the "
            "name, or run `nextbest events export` first"
        )
    return shown


def _with_exposures(rows: pd.DataFrame, requests: pd.DataFrame) -> pd.DataFrame:
    held = requests.merge(rows[[s.CUSTOMER_ID, END]], on=s.CUSTOMER_ID)
    held = held[held[s.AT] < held[END]]
    rows[EXPOSURES] = _sums(rows, held, pd.Series(1.0, index=held.index))
    if LATENCY in held and held[LATENCY].notna().any():
        rows[WAITED] = _sums(rows, held, held[LATENCY].fillna(0.0))
        rows[f"{WAITED}_{EXPOSURES}"] = _sums(rows, held, held[LATENCY].notna().astype(float))
    return rows


def _with_outcomes(
    rows: pd.DataFrame, interactions: pd.DataFrame, *, now: pd.Timestamp, past_days: int
) -> pd.DataFrame:
    known = interactions[interactions[s.AT] <= now]
    done = known.merge(rows[[s.CUSTOMER_ID, START, END]], on=s.CUSTOMER_ID)
    before = done[done[s.AT] < done[START]]
    rows[STANDING] = np.where(rows[s.CUSTOMER_ID].isin(before[s.CUSTOMER_ID]), EXISTING, NEW)
    past = before[before[s.AT] >= before[START] - pd.Timedelta(days=past_days)]
    within = done[(done[s.AT] >= done[START]) & (done[s.AT] < done[END])]
    for prefix, part in (("", within), (PAST, past)):
        for column, kind in ((PURCHASES, s.PURCHASE), (CLICKS, s.CLICK), (RETURNS, s.RETURN)):
            rows[prefix + column] = _sums(rows, part, (part[s.KIND] == kind).astype(float))
        rows[prefix + CONVERTED] = (rows[prefix + PURCHASES] > 0).astype(float)
        money = part[s.VALUE].fillna(0.0).where(part[s.KIND] == s.PURCHASE, 0.0)
        rows[prefix + SPENT] = _sums(rows, part, money)
    return rows


def _sums(rows: pd.DataFrame, part: pd.DataFrame, amounts: pd.Series[float]) -> pd.Series[float]:
    """Return the amounts summed by customer, in the order of the rows; 0 where there is nothing."""
    summed = amounts.groupby(part[s.CUSTOMER_ID]).sum()
    return rows[s.CUSTOMER_ID].map(summed).fillna(0.0).astype(float)
