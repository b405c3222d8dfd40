"""A log of answers that explore, made by the recommender itself, whose rewards come from a truth that is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

import numpy as np
import pandas as pd

from feature_repo import names as v
from feature_repo import schema as s
from serving.bundle import Bundle
from serving.features import CustomerState, FrameReader
from serving.index import ProductIndex
from serving.query import conditions
from serving.recommender import Query, Recommender
from serving.rules import Rules
from serving.rules.config import RulesFile
from tests.builders import AS_OF, make_bundle, state

EPSILON = 0.4
FILE = RulesFile.model_validate(
    {
        "cap": [{"name": "few", "at_most": 4}],
        "explore": [{"name": "third", "slots": [3], "epsilon": EPSILON}],
    }
)
CUSTOMERS = 12


def bundles() -> tuple[Bundle, Bundle]:
    """Two bundles of one shop that differ in what they think of products."""
    first = make_bundle(3, customers=CUSTOMERS)
    assert first.vectors is not None
    turned = np.roll(first.vectors, 5, axis=0).copy()
    return first, replace(
        first, vectors=turned, index=ProductIndex.build(turned), version="202603020000-111111111111"
    )


@dataclass(frozen=True)
class Planted:
    """The log, the states of its customers, and the truth: the chance of a click by product."""

    exposures: pd.DataFrame
    interactions: pd.DataFrame
    states: dict[str, CustomerState]
    truth: dict[str, float]

    def rows(self, keys: pd.DataFrame) -> pd.DataFrame:
        """Return the rows of features of customers, whatever the instant."""
        told = []
        for customer in keys[s.CUSTOMER_ID]:
            held = self.states[customer]
            events = held.history.to_rows()
            columns = zip(*events, strict=True) if events else ([], [], [], [])
            names = (v.RECENT_PRODUCTS, v.RECENT_KINDS, v.RECENT_AT, v.RECENT_VALUES)
            told.append({**held.row, **dict(zip(names, map(list, columns), strict=True))})
        return keys.assign(**pd.DataFrame(told).to_dict("list"))


def under_rules(bundle: Bundle, file: RulesFile = FILE) -> Recommender:
    return Recommender(bundle, FrameReader({}), Rules(file, bundle))


def planted_log(
    logged: Bundle, *, requests: int, seed: int = 0, exclude: Sequence[str] = (), told: bool = False
) -> Planted:
    """Let ``logged`` answer under the rules of ``FILE``, and customers click by the truth.

    ``exclude`` is asked of every tenth request; ``told``: and logged.
    """
    rng = np.random.default_rng(seed)
    ids = logged.catalog.ids
    truth = dict(zip(ids, rng.permutation(np.linspace(0.02, 0.9, len(ids))).tolist(), strict=True))
    recommender = under_rules(logged)
    states = {
        f"c{row:02d}": state(
            [(ids[int(i)], s.CLICK, float(d)) for d, i in enumerate(rng.integers(len(ids), size=3), 1)]
        )
        for row in range(CUSTOMERS)
    }
    # more customers than the bundle knows, each like one of those
    names = [f"c{row:02d}" for row in range(CUSTOMERS)] + [f"n{row:03d}" for row in range(200)]
    states |= {name: states[f"c{int(name[1:]) % CUSTOMERS:02d}"] for name in names if name[0] == "n"}
    shown, events = [], []
    for number in range(requests):
        customer = names[int(rng.integers(len(names)))]
        at = AS_OF + timedelta(days=1, seconds=number)
        hidden = tuple(exclude) if number % 10 == 0 else ()
        query = Query(at=at, customer_id=customer, n=5, request_id=f"{seed}-{number}", exclude=hidden)
        for place, item in enumerate(recommender.answer(query, states[customer]).items, start=1):
            shown.append(
                (query.request_id, at, customer, None, None, logged.tag, place, item.product_id, item.source,
                 item.propensity, conditions(query) if told else None)
            )  # fmt: skip
            if rng.random() < truth[item.product_id]:
                events.append((customer, item.product_id, at, s.CLICK, 0.0, query.request_id))
    columns = [
        s.REQUEST_ID, s.AT, s.CUSTOMER_ID, "experiment", "variant", "bundle", "position", s.PRODUCT_ID, "source",
        s.PROPENSITY, "conditions",
    ]  # fmt: skip
    exposures = pd.DataFrame(shown, columns=columns)
    interactions = pd.DataFrame(
        events, columns=[s.CUSTOMER_ID, s.PRODUCT_ID, s.AT, s.KIND, s.VALUE, s.REQUEST_ID]
    )
    for frame in (exposures, interactions):
        frame[s.AT] = pd.to_datetime(frame[s.AT], utc=True)
    return Planted(exposures, interactions, states, truth)
