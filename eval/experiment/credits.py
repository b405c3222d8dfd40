"""Which product of which answer a click or a purchase is owed to: a row a product shown, with what came of it.

An event that names its request (``request_id``) is credited to that product of that answer. One that does not, as
purchases often do that come from a till or a shop's back end, is credited to the latest answer that showed the product
to the customer, if that is no longer ago than some hours; else to none. Where a client sends request ids with clicks
but not with purchases, both ways are used side by side, and how many came by each is told.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import pandas as pd

from feature_repo import schema as s

HOURS: Final = 24.0
CLICKED: Final = "clicked"
BOUGHT: Final = "bought"
PAID: Final = "paid"
#: Of an event that was credited: the place of its row in what was shown.
ROW: Final = "row"
_KINDS: Final = (s.CLICK, s.PURCHASE)


@dataclass(frozen=True)
class Credits:
    """What came of products shown.

    Attributes
    ----------
    rows : DataFrame
        A row a product shown, in the order given, with ``clicked`` and ``bought`` (0 or 1) and ``paid`` (money).
    events : DataFrame
        The events credited: ``row``, ``at``, ``kind``, ``value``.
    remembered
        How many of them named no request.
    astray
        Events that name a request which did not show their product.
    """

    rows: pd.DataFrame
    events: pd.DataFrame
    remembered: int
    astray: int


def credit(
    shown: pd.DataFrame,
    interactions: pd.DataFrame,
    *,
    now: pd.Timestamp,
    window_days: int,
    hours: float = HOURS,
) -> Credits:
    """Credit clicks and purchases to what was shown.

    Parameters
    ----------
    shown : DataFrame
        ``request_id``, ``product_id``, ``at``, ``customer_id``, no product twice in a request.
    interactions : DataFrame
        ``customer_id``, ``product_id``, ``at``, ``kind``, ``value``, and ``request_id`` where it is known.
    now
        Until when the data are known.
    window_days
        How many days from an answer on count. An event that names its request belongs to it even if the client's
        clock says that it came before.
    hours
        How long ago an answer may lie that an event without a request id is credited to.
    """
    rows = shown.reset_index(drop=True)
    done = interactions[interactions[s.KIND].isin(_KINDS) & (interactions[s.AT] <= now)].copy()
    for frame in (rows, done):  # one resolution, as the join by time demands
        frame[s.AT] = frame[s.AT].astype("datetime64[us, UTC]")
    if s.REQUEST_ID not in done:
        done = done.assign(request_id=pd.Series(None, index=done.index, dtype=object))
    names = done[s.REQUEST_ID]
    places = rows[[s.REQUEST_ID, s.CUSTOMER_ID, s.PRODUCT_ID, s.AT]].copy()
    places[ROW], places["shown_at"] = rows.index, rows[s.AT]
    own = done[names.isin(rows[s.REQUEST_ID])]
    named = own.merge(places.drop(columns=[s.AT, s.CUSTOMER_ID]), on=[s.REQUEST_ID, s.PRODUCT_ID])
    nameless = done[names.isna() & done[s.CUSTOMER_ID].notna()].sort_values(s.AT, kind="stable")
    remembered = pd.merge_asof(
        nameless.drop(columns=s.REQUEST_ID),
        places[places[s.CUSTOMER_ID].notna()].drop(columns=s.REQUEST_ID).sort_values(s.AT, kind="stable"),
        on=s.AT,
        by=[s.CUSTOMER_ID, s.PRODUCT_ID],
        tolerance=pd.Timedelta(hours=hours),
    ).dropna(subset=[ROW])
    found = pd.concat([named, remembered], ignore_index=True)
    in_time = found[s.AT] < found["shown_at"] + pd.Timedelta(days=window_days)
    events = found.loc[in_time, [ROW, s.AT, s.KIND, s.VALUE]].reset_index(drop=True)
    events[ROW] = events[ROW].astype(int)
    clicks, purchases = (events[events[s.KIND] == kind] for kind in _KINDS)
    rows[CLICKED] = rows.index.isin(clicks[ROW]).astype(float)
    rows[BOUGHT] = rows.index.isin(purchases[ROW]).astype(float)
    paid = purchases[s.VALUE].fillna(0.0).groupby(purchases[ROW]).sum()
    rows[PAID] = paid.reindex(rows.index).fillna(0.0).astype(float)
    counted = int(in_time[len(named) :].sum())
    return Credits(rows, events, remembered=counted, astray=len(own) - len(named))
