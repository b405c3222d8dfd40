"""When customers were moved from one variant to another: seen in the exposures where shares were changed on the way.

A change of shares moves customers at one instant, which lies between the last exposure of the old and the first of the
new variant of everybody whom it moved, and between two variants it moves them one way. Who is assigned anew for another
reason (two ids, an override) moves at any time, and as often back.

From a change on, the hash of the customer alone decides again who sees what, so that all who are seen since compare,
moved or not. Leaving the moved out would spoil that: they are all of one variant, and of those who come often.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import pandas as pd

from feature_repo import schema as s

_FEWEST: Final = 5
#: An instant at which fewer of all who ever moved did so is that of no change.
_LEAST: Final = 0.05
#: Of those who moved at a change so many moved the same way between two variants.
_ONE_WAY: Final = 0.9
_FROM: Final = "from"
_LEFT: Final = "left"
_CAME: Final = "came"


def last_change(requests: pd.DataFrame, variant: str) -> pd.Timestamp | None:
    """Return from when on customers see the variants of the last change of shares; None where none can be seen.

    Parameters
    ----------
    requests : DataFrame
        A row an answer: ``customer_id``, ``at``, and the variant.
    variant
        The column of the variant.
    """
    moves = _last_moves(requests, variant).sort_values(_LEFT).reset_index(drop=True)
    least = max(_FEWEST, _LEAST * len(moves))
    if len(moves) < least:
        return None
    left, came = moves[_LEFT].to_numpy(), np.sort(moves[_CAME].to_numpy())
    # how many were under way, having left one variant and not come to the other, at each of these instants
    under_way = np.searchsorted(left, left, side="right") - np.searchsorted(came, left, side="right")
    peak = None
    for place in reversed(range(len(moves))):
        highest = least if peak is None else under_way[peak]
        if under_way[place] >= least and (peak is None or under_way[place] > highest):
            peak = place
        elif peak is not None and under_way[place] < highest / 2:
            break  # what lies before belongs to an earlier change
    if peak is None:
        return None
    at = moves[_LEFT].iloc[peak]
    together = moves[(moves[_LEFT] <= at) & (moves[_CAME] > at)]
    if not _is_one_way(together, variant):
        return None
    found: pd.Timestamp = together[_CAME].min().ceil("s")
    return found


def _last_moves(requests: pd.DataFrame, variant: str) -> pd.DataFrame:
    """Return each customer's last move, with when they were last seen in the one and first in the other variant."""
    told = requests.sort_values(s.AT, kind="stable")
    by = told.groupby(s.CUSTOMER_ID)
    told = told.assign(**{_FROM: by[variant].shift(), _LEFT: by[s.AT].shift()})
    moved = told[told[_FROM].notna() & (told[_FROM] != told[variant])]
    return moved.drop_duplicates(s.CUSTOMER_ID, keep="last").rename(columns={s.AT: _CAME})


def _is_one_way(moves: pd.DataFrame, variant: str) -> bool:
    """Return whether between any two variants nearly all moved the same way."""
    ways = moves.groupby([_FROM, variant], as_index=False).size()
    pair = ways[[_FROM, variant]].apply(sorted, axis=1).map(tuple)
    count = ways.groupby(pair)["size"]
    return bool(count.max().sum() >= _ONE_WAY * count.sum().sum())
