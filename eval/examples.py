"""Examples: customers whose history, next purchases and lists stand side by side, with names.

They are drawn by a rule and a hash of the id, not picked: so many in whom the leading recipe found something, so many
in whom it did not, and a newcomer. Numbers persuade; examples show what they are numbers of.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import pandas as pd

from eval.candidates import first_by_hash
from eval.evaluate import NEW
from eval.metrics import HR
from eval.results import Example, Shown
from eval.rolling import SHOWN, AtOrigin, policy_rows
from feature_repo import schema as s
from serving.recommender import PurchasedPolicy

_FOUND: Final = 3
_MISSED: Final = 2
_NEWCOMERS: Final = 1
_HISTORY: Final = 8
_PLACES: Final = 10


def examples(
    origin: AtOrigin,
    *,
    purchases: pd.DataFrame,
    bought: pd.DataFrame,
    names: Mapping[str, str],
    leader: str,
    purchased: PurchasedPolicy,
) -> list[Example]:
    """Draw examples at an origin.

    Parameters
    ----------
    origin
        The recipes and what they showed.
    purchases
        All purchases (customer_id, product_id, at); those before the origin are the history.
    bought
        What counts in the window (customer_id, product_id).
    names
        Of products; one without a name is told by its id.
    leader
        The recipe by whose success customers are drawn.
    purchased
        The policy.
    """
    frames = {recipe: policy_rows(judged, purchased) for recipe, judged in origin.judged.items()}
    lead = frames[leader]
    standing = origin.labels.iloc[:, 0].reindex(lead.index)
    is_new, hit = standing.eq(NEW), lead[HR].gt(0)
    groups = {
        f"{leader} finds something": (lead.index[~is_new & hit], _FOUND),
        f"{leader} finds nothing": (lead.index[~is_new & ~hit], _MISSED),
        "a new customer": (lead.index[is_new], _NEWCOMERS),
    }
    before = purchases[purchases[s.AT] < pd.Timestamp(origin.at)].sort_values(s.AT, kind="stable")
    told = []
    for why, (customers, size) in groups.items():
        for customer in first_by_hash(sorted(customers), size):
            taken = set(bought.loc[bought[s.CUSTOMER_ID] == customer, s.PRODUCT_ID])
            own = before.loc[before[s.CUSTOMER_ID] == customer, s.PRODUCT_ID].drop_duplicates(keep="last")
            told.append(
                Example(
                    customer_id=str(customer),
                    why=why,
                    at=origin.at,
                    history=[_name(product, names) for product in own.tolist()[: -_HISTORY - 1 : -1]],
                    bought=[_name(product, names) for product in sorted(taken)],
                    shown={
                        recipe: [
                            Shown(product_id=product, name=_name(str(product), names), hit=product in taken)
                            for product in frame[SHOWN].loc[customer][:_PLACES]
                        ]
                        for recipe, frame in frames.items()
                    },
                )
            )
    return told


def _name(product: str, names: Mapping[str, str]) -> str:
    return names.get(product) or product
