"""One row a customer: which variant they saw first and when, and what they did in the window that began then.

The customer is what was assigned, so the customer is what is counted: every exposure and purchase is gathered into
one row, once. What was done before the first exposure is the customer's own past; nothing of the window is in it.
Who saw two variants belongs to neither; who was never identified cannot be followed; whose window is not over has
not had the time. All of them are counted and told. Where shares were changed, exposures are read from the change on:
everybody counts by what they see since (``moves`` says why), and the past ends where the experiment began for them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd

from eval.evaluate import EXISTING, NEW
from eval.experiment.moves import last_change
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
_BEGUN: Final = "begun"

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
    moved
        Customers seen since ``since`` who saw another variant before.
    changed
        When customers were moved by a change of shares, as far as the exposures tell.
    """

    rows: pd.DataFrame
    seen: dict[str, int]
    crossed: int
    immature: int
    anonymous: int
    moved: int = 0
    changed: pd.Timestamp | None = None


def enrol(
    exposures: pd.DataFrame,
    interactions: pd.DataFrame,
    name: str,
    *,
    now: pd.Timestamp,
    window_days: int = 14,
    past_days: int = 56,
    immature: bool = False,
    since: pd.Timestamp | None = None,
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
    since
        Read exposures from this instant on, that of the last change of shares; a window begins with the first of them.

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
    if since is not None and since > now:
        raise DataError(
            f"expected --since before {now:%Y-%m-%d %H:%M} UTC, until when the data are known, found "
            f"{since:%Y-%m-%d %H:%M} UTC; give the instant of the last change of shares"
        )
    shown = _of(exposures, name)
    shown = shown[shown[s.AT] <= now]
    every = shown[shown[s.CUSTOMER_ID].notna()].drop_duplicates([s.CUSTOMER_ID, s.REQUEST_ID])
    begun = every.groupby(s.CUSTOMER_ID)[s.AT].min()
    earlier = every.iloc[:0] if since is None else every[every[s.AT] < since]
    if since is not None:
        shown = shown[shown[s.AT] >= since]
    anonymous = int(shown.loc[shown[s.CUSTOMER_ID].isna(), s.REQUEST_ID].nunique())
    requests = every.loc[every.index.isin(shown.index)]
    variants = requests.groupby(s.CUSTOMER_ID)[VARIANT].nunique()
    crossers = variants.index[variants > 1]
    changed = last_change(requests, VARIANT)
    if len(variants) and len(crossers) > MOST_CROSSED * len(variants):
        raise _crossed(name, len(crossers), len(variants), changed)
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
        raise _none_over(name, first[s.AT], now, window_days, since)
    before = earlier[[s.CUSTOMER_ID, VARIANT]].merge(rows[[s.CUSTOMER_ID, VARIANT]], on=s.CUSTOMER_ID)
    moved = before.loc[before[f"{VARIANT}_x"] != before[f"{VARIANT}_y"], s.CUSTOMER_ID].nunique()
    rows = _with_exposures(rows, requests)
    rows = _with_outcomes(rows, interactions, rows[s.CUSTOMER_ID].map(begun), now=now, past_days=past_days)
    return Enrolled(rows, seen, len(crossers), unripe, anonymous, moved, changed)


def _crossed(name: str, crossed: int, customers: int, changed: pd.Timestamp | None) -> DataError:
    """Return what is told where too many saw two variants: how to read on, or what to look for."""
    found = (
        f"expected every customer of {name} in one variant, found {crossed:,} of {customers:,} in two or more"
    )
    if changed is not None:
        return DataError(
            f"{found}; they were moved at about {changed:%Y-%m-%d %H:%M:%S} UTC, as a change of shares does: read what "
            f"came since with --since {changed:%Y-%m-%dT%H:%M:%SZ}, by the shares as they are since"
        )
    return DataError(
        f"{found}; if shares were changed, read what came since with --since INSTANT; else see why customers are "
        "assigned anew (another salt, two ids, an override) and begin again"
    )


def _none_over(
    name: str,
    starts: pd.Series[pd.Timestamp],
    now: pd.Timestamp,
    window_days: int,
    since: pd.Timestamp | None,
) -> DataError:
    """Return what is told where nobody has had their days: from when on that is otherwise, and what can be done now."""
    if starts.empty:
        after = "" if since is None else f" since {since:%Y-%m-%d %H:%M} UTC"
        return DataError(
            f"expected exposures of {name} to known customers{after}, found none; wait, and run "
            "`nextbest events export` again"
        )
    return DataError(
        f"expected customers of {name} whose {window_days} days are over by {now:%Y-%m-%d %H:%M} UTC, found none of "
        f"{len(starts):,}; {wait_for(starts.min(), now, window_days)}"
    )


def wait_for(first: pd.Timestamp, now: pd.Timestamp, window_days: int) -> str:
    """Say from when on there is something to read, and what can be done before.

    Parameters
    ----------
    first
        The earliest start of a window.
    now
        Until when the data are known.
    window_days
        Length of the window.
    """
    over = first + pd.Timedelta(days=window_days)
    whole = int((now - first) / pd.Timedelta(days=1))
    fewer = f", give --window {whole} or fewer days" if 1 <= whole < window_days else ""
    return (
        f"wait, the first are over at {over:%Y-%m-%d %H:%M} UTC{fewer}, or add --immature to read them so far"
    )


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
    rows: pd.DataFrame,
    interactions: pd.DataFrame,
    begun: pd.Series[pd.Timestamp],
    *,
    now: pd.Timestamp,
    past_days: int,
) -> pd.DataFrame:
    known = interactions[interactions[s.AT] <= now]
    own = rows[[s.CUSTOMER_ID, START, END]].assign(**{_BEGUN: begun})
    done = known.merge(own, on=s.CUSTOMER_ID)
    # the past ends with the first exposure of all: what follows is no longer untouched by the experiment
    before = done[done[s.AT] < done[_BEGUN]]
    rows[STANDING] = np.where(rows[s.CUSTOMER_ID].isin(before[s.CUSTOMER_ID]), EXISTING, NEW)
    past = before[before[s.AT] >= before[_BEGUN] - pd.Timedelta(days=past_days)]
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
