"""How an interleaved answer came about: whose pick each product is, and the traces of both lists.

The answer is drafted again from the same lists with the same coins, by the code that answers. Deliberately absent: how
each list came about (``serving.trace``).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from serving.query import Query
from serving.served import Choice
from serving.trace import Trace, trace


@dataclass(frozen=True)
class Picked:
    """One product of an interleaved answer: whose pick it is, and its rank in that variant's own list."""

    rank: int
    product_id: str
    name: str | None
    team: str
    own_rank: int


@dataclass(frozen=True)
class DraftTrace:
    """An interleaved answer in order, and the trace of the list of each variant, the control's first."""

    picks: tuple[Picked, ...]
    lists: dict[str, Trace]

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self)


def draft_trace(choice: Choice, query: Query) -> DraftTrace | None:
    """Answer a query and tell how that came about; None where the answer is made of one list.

    Raises
    ------
    DataError
        A filter names an attribute that a catalog does not have.
    """
    if choice.rival is None:
        return None
    recommenders = (choice.recommender, choice.rival.recommender)
    lists = {
        team: trace(recommender, query, recommender.states([query])[0])
        for team, recommender in zip(choice.rival.teams, recommenders, strict=True)
    }
    place = {
        (team, one.product_id): one.rank
        for team, told in lists.items()
        for one in told.products
        if one.rank is not None
    }
    picks = tuple(
        Picked(item.rank, item.product_id, item.name, item.team, place[item.team, item.product_id])
        for item in choice.recommend([query])[0].items
        if item.team is not None
    )
    return DraftTrace(picks, lists)
