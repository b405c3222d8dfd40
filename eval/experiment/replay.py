"""Logged answers made again, to see what another bundle would have put where chance decided.

An answer is made again by the very bundle, rules and request id that made it, with the customer's features as they
were known then. It must come out as it was logged, product by product and chance by chance: an answer that does not
(a price has changed; a session had a history; a log of old does not tell filters and context) says nothing for
certain, and is left out and counted. Whether it comes out does not depend on what chance decided, since a slot's
chances are those of the whole pool.

What another bundle would show in a slot is its own product for that place; where that stands elsewhere in the answer
already, the best of the rest. It can be valued only where it was in the pool that chance drew from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from serving.features import CustomerState
from serving.filtering import Mask
from serving.recommender import Query, Recommender
from serving.rules.choice import Room

_SAME: Final = 1e-9


@dataclass(frozen=True)
class Slot:
    """One slot of an answer that chance decided.

    Attributes
    ----------
    place
        From 0.
    shown, propensity
        The product, and how likely it was.
    usual
        What the logged policy shows there without chance.
    pick
        What the other bundle would show; None where it has nothing.
    supported
        Whether chance could have shown the pick.
    """

    place: int
    shown: str
    propensity: float
    usual: str
    pick: str | None
    supported: bool


def is_chancy(propensity: float | None) -> bool:
    """Return whether a propensity says that a slot was left to chance."""
    return propensity is not None and 0 < propensity < 1


def replayed(
    logged: Recommender,
    target: Recommender,
    query: Query,
    state: CustomerState,
    shown: Sequence[tuple[str, float]],
) -> list[Slot] | None:
    """Return the slots that chance decided; None where the answer does not come out as it was logged.

    Parameters
    ----------
    logged
        The bundle that answered, under the rules that it answered under.
    target
        The other bundle, under the same rules.
    query
        As it was asked, with its request id.
    state
        What was known of the customer then.
    shown
        Product and propensity of each slot.
    """
    again = [(item.product_id, item.propensity) for item in logged.answer(query, state).items]
    if not _equal(again, shown):
        return None
    sure = replace(query, request_id=None)
    usual = logged.answer(sure, state).product_ids
    picks = target.answer(sure, state).product_ids
    found = []
    for place, (product, propensity) in enumerate(shown):
        if not is_chancy(propensity):
            continue
        # later slots had not been drawn yet
        others = [name for name, _ in shown[:place]] + usual[place + 1 :]
        pick = picks[place] if place < len(picks) else None
        if pick is None or pick in others:
            rest = target.answer(replace(sure, n=1, exclude=(*sure.exclude, *others)), state).product_ids
            pick = rest[0] if rest else None
        supported = pick == usual[place] or (pick is not None and _in_pool(logged, sure, state, others, pick))
        found.append(Slot(place, product, propensity, usual[place], pick, supported))
    return found


def _equal(again: Sequence[tuple[str, float | None]], shown: Sequence[tuple[str, float]]) -> bool:
    return len(again) == len(shown) and all(
        one == other and p is not None and abs(p - q) <= _SAME
        for (one, p), (other, q) in zip(again, shown, strict=True)
    )


def _in_pool(
    logged: Recommender, query: Query, state: CustomerState, others: Sequence[str], product: str
) -> bool:
    index = logged.bundle.catalog.index
    if product not in index:
        return False
    return bool(pool(logged, query, state, [index[name] for name in others])[index[product]])


def pool(logged: Recommender, query: Query, state: CustomerState, others: Sequence[int]) -> Mask:
    """Return which products (products,) chance could show in a slot beside others, the usual one apart.

    What passes the hard rules, stands in no other slot and has room under caps; see ``serving.rules.apply``.
    """
    case = logged.case(query, state)
    eligible = case.allowed.copy()
    if logged.rules is not None and case.soft is not None and len(case.soft.limits):
        shown = np.asarray(others, dtype=np.int32)
        Room(logged.rules.categories, case.soft.limits, shown).clear(eligible)
    eligible[np.asarray(others, dtype=np.intp)] = False
    return eligible
