"""Golden queries: whole inputs and the answers a bundle gave when it was made, replayed before it serves.

A case holds the history, the slow features and the instant, and no customer id, so that it can be
replayed anywhere. Answers must have the same ids in the same order, but for products whose scores lie
within ``TOLERANCE`` of each other (float arithmetic may order such ties differently).
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any, Final

from feature_repo.recent import History
from serving.errors import BundleError
from serving.features import CustomerState
from serving.recommender import Query, Recommendations, Recommender

TOLERANCE: Final = 1e-4


def record(recommender: Recommender, cases: Iterable[tuple[Query, CustomerState]]) -> list[dict[str, Any]]:
    """Answer each case and return it with its answer, as JSON values."""
    golden = []
    for query, state in cases:
        answer = recommender.answer(query, state)
        golden.append(
            {
                "at": query.at.isoformat(),
                "n": query.n,
                "context": list(query.context),
                "purchased": query.purchased,
                "features": {name: _plain(value) for name, value in state.row.items()},
                "history": state.history.to_rows(),
                "answer": [[item.product_id, item.score] for item in answer.items],
            }
        )
    return golden


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else value


def replay(recommender: Recommender) -> int:
    """Replay the bundle's golden queries; return how many there were.

    Raises
    ------
    BundleError
        An answer differs from the one recorded.
    """
    for number, case in enumerate(recommender.bundle.golden):
        query = Query(
            at=datetime.fromisoformat(case["at"]),
            n=case["n"],
            context=tuple(case["context"]),
            purchased=case["purchased"],
        )
        events = [(product, kind, int(at), float(value)) for product, kind, at, value in case["history"]]
        answer = recommender.answer(query, CustomerState(case["features"], History.of(events)))
        if not same(answer, case["answer"]):
            raise BundleError(
                f"expected golden query {number} to be answered as when {recommender.bundle.tag} was made, "
                f"found {answer.product_ids[:3]} instead of {[p for p, _ in case['answer'][:3]]}; publish it anew"
            )
    return len(recommender.bundle.golden)


def same(answer: Recommendations, expected: list[list[Any]]) -> bool:
    """Whether an answer equals the recorded one but for ties within ``TOLERANCE``."""
    if len(answer.items) != len(expected):
        return False
    recorded = {row[0]: row[1] for row in expected}
    for item, (product, score) in zip(answer.items, expected, strict=True):
        near = TOLERANCE * max(1.0, abs(score))
        if abs(item.score - score) > near:
            return False
        # a product in another place must be tied with the one recorded there; one that was not recorded
        # at all can only be a tie at the cut
        if item.product_id != product and abs(recorded.get(item.product_id, expected[-1][1]) - score) > near:
            return False
    return True
