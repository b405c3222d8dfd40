"""One origin of a rolling evaluation: what there is to judge by, and how one recipe did.

``Ground`` is the same for every recipe of an origin: the window, the candidates, what was sold. ``judge_recipe`` asks
the recommender for lists under both purchased policies and for the scores of all candidates. What it returns is kept
on disk, so that an evaluation that was interrupted goes on; everything that is told later is computed from it.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

from eval.beyond import intra_list_diversity, self_information
from eval.candidates import Candidates, score
from eval.evaluate import POLICIES, Evaluation, Questions, Window, evaluate
from eval.metrics import METRICS, hits
from eval.scorecard import AUC, Scorecard, scorecard
from feature_repo import schema as s
from serving.catalog import Catalog
from serving.recommender import PurchasedPolicy, Recommender

NOVELTY: Final = "novelty"
DIVERSITY: Final = "diversity"
REPEATS_SHOWN: Final = "repeats_shown"
RECALL_REPEATS: Final = "recall_repeats"
RECALL_NEW: Final = "recall_new"
SHOWN: Final = "shown"
POLICY: Final = "purchased"
#: Columns of the judged lists: accuracy, then what else is to be known of them.
LIST_METRICS: Final = (*METRICS, AUC, NOVELTY, DIVERSITY, REPEATS_SHOWN, RECALL_REPEATS, RECALL_NEW)
TIERS: Final = ("head", "middle", "tail")
_HEAD, _TAIL = 0.2, 0.5  # the fifth that sold most, the half that sold least

_LISTS, _ROWS, _FACTS = "lists.parquet", "candidates.parquet", "facts.json"
#: Changes whenever the same data, recipe and origin would give other files.
FORMAT: Final = 3


@dataclass(frozen=True)
class Ground:
    """What recipes are judged by at one origin.

    ``window`` asks the buyers among the ``candidates`` only; ``profiles`` (products, customers) says who had bought
    what before, ``sold`` (products,) how often, ``kinds`` (products,) the category, −1 for none, and ``tiers``
    (products,) is the place in ``TIERS`` by sales before the origin, all in terms of the catalog. ``measured`` (rows,)
    says of which candidates measures were known at the origin; None where the shop measures nothing.
    """

    window: Window
    candidates: Candidates
    profiles: sp.csr_matrix[np.float64]
    sold: NDArray[np.int64]
    kinds: NDArray[np.int64]
    tiers: NDArray[np.int64]
    measured: NDArray[np.bool_] | None = None

    @classmethod
    def of(
        cls,
        window: Window,
        catalog: Catalog,
        known: Collection[str],
        *,
        measured: Collection[str] | None = None,
    ) -> Ground:
        """Prepare the ground: ``window`` with all its buyers, the catalog, and whom the shop knew at its beginning.

        ``measured`` are the customers of whom measures were known then; None where the shop measures nothing.
        """
        candidates = Candidates.draw(window, catalog, known)
        asked = window.purchases[s.CUSTOMER_ID].isin(candidates.buyers)
        before = window.bought_before
        product = pd.Index(catalog.ids).get_indexer(pd.Index(before[s.PRODUCT_ID]))
        customer, _ = pd.factorize(before[s.CUSTOMER_ID])
        inside = product >= 0
        shape = (len(catalog), int(customer.max(initial=-1)) + 1)
        ones = np.ones(int(inside.sum()))
        profiles = sp.csr_matrix((ones, (product[inside], customer[inside])), shape=shape)
        sold = np.bincount(product[inside], minlength=len(catalog)).astype(np.int64)
        kinds, _ = pd.factorize(catalog.frame[s.CATEGORY])
        return cls(
            window=replace(window, purchases=window.purchases[asked].reset_index(drop=True)),
            candidates=candidates,
            profiles=profiles,
            sold=sold,
            kinds=kinds.astype(np.int64),
            tiers=_tiers(sold),
            measured=None if measured is None else np.isin(candidates.customers, list(measured)),
        )

    @property
    def existing(self) -> NDArray[np.bool_]:
        """Which candidates (rows,) bought before the origin."""
        return np.isin(self.candidates.customers, self.window.bought_before[s.CUSTOMER_ID].unique())


@dataclass(frozen=True)
class Judged:
    """How one recipe did at one origin.

    ``lists`` has one row for each purchased policy and buyer: ``LIST_METRICS`` and the products ``shown``; ``rows``
    one a candidate customer, see ``Scorecard``; ``facts`` what belongs to no customer, as JSON values.
    """

    lists: pd.DataFrame
    rows: pd.DataFrame
    facts: Mapping[str, Any]

    def save(self, directory: Path) -> None:
        """Write into a new ``directory``, in one step."""
        staging = directory.with_name(f".{directory.name}.{os.getpid()}")
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        self.lists.to_parquet(staging / _LISTS, index=False)
        self.rows.reset_index().to_parquet(staging / _ROWS, index=False)
        (staging / _FACTS).write_text(json.dumps(self.facts))
        shutil.rmtree(directory, ignore_errors=True)
        staging.rename(directory)

    @classmethod
    def load(cls, directory: Path) -> Judged | None:
        """Read what ``save`` wrote; None where there is nothing whole."""
        try:
            return cls(
                pd.read_parquet(directory / _LISTS),
                pd.read_parquet(directory / _ROWS).set_index(s.CUSTOMER_ID),
                json.loads((directory / _FACTS).read_text()),
            )
        except (OSError, ValueError, KeyError):
            return None


@dataclass(frozen=True)
class AtOrigin:
    """All recipes at one origin, by name, and the labels of the customers (index: customer_id)."""

    at: datetime
    judged: Mapping[str, Judged]
    labels: pd.DataFrame


def judge_recipe(recommender: Recommender, ground: Ground, *, name: str, k: int, horizon_days: int) -> Judged:
    """Ask ``recommender`` at the origin of ``ground`` and judge what it says.

    Parameters
    ----------
    recommender
        Fitted on what came before the origin, with features as known there.
    ground
        What happened next.
    name
        How the recipe is called.
    k
        How many products are shown to each customer.
    horizon_days
        Length of the window: chances of a purchase are held against what happened only where they are of as many days.
    """
    scored = score(recommender, ground.candidates)
    card = scorecard(
        ground.candidates,
        scored,
        existing=ground.existing,
        measured=ground.measured,
        horizon_days=horizon_days,
    )
    judged = [
        evaluate(recommender, ground.window, name=name, k=k, policy=policy)
        for policy in POLICIES
        if len(ground.window.truth(policy))
    ]
    lists = pd.concat([_rows(one, ground, card) for one in judged], ignore_index=True)
    facts: dict[str, Any] = {
        "recipe": name,
        "chance_days": scored.chance_days,
        "unranked": recommender.bundle.manifest.policy.unranked,
        "gains": card.gains.tolist(),
        "buyers": card.buyers,
        "calibration": None if card.calibration is None else card.calibration.tolist(),
        "lists": {one.policy: _of_lists(one, ground) for one in judged},
    }
    return Judged(lists, card.rows, facts)


def _rows(judged: Evaluation, ground: Ground, card: Scorecard) -> pd.DataFrame:
    """Return one row a buyer with every metric of the list."""
    asked = Questions.of(ground.window, ground.candidates.catalog, judged.policy)
    frame = judged.per_customer[list(METRICS)].copy()
    frame[AUC] = card.within[judged.policy].reindex(frame.index)
    frame[NOVELTY] = self_information(judged.ranked, ground.sold)
    frame[DIVERSITY] = intra_list_diversity(judged.ranked, ground.profiles, ground.kinds)
    size = asked.relevant.n_products
    row = np.arange(len(frame))[:, None]
    owned = _owned_keys(asked, ground.window)
    shown = judged.ranked >= 0
    again = shown & np.isin(row * size + judged.ranked, owned)
    hit = hits(judged.ranked, asked.relevant)
    wanted = asked.relevant.keys
    is_repeat = np.isin(wanted, owned)
    repeats = np.bincount(wanted[is_repeat] // size, minlength=len(frame))
    with np.errstate(invalid="ignore", divide="ignore"):
        frame[REPEATS_SHOWN] = again.sum(axis=1) / shown.sum(axis=1)
        frame[RECALL_REPEATS] = (hit & again).sum(axis=1) / repeats
        frame[RECALL_NEW] = (hit & ~again).sum(axis=1) / (asked.relevant.sizes - repeats)
    ids = np.array([*ground.candidates.catalog.ids, None], dtype=object)  # −1, the padding, is the last
    frame[SHOWN] = [[product for product in listed if product is not None] for listed in ids[judged.ranked]]
    return frame.reset_index().assign(**{POLICY: judged.policy})


def _owned_keys(asked: Questions, window: Window) -> NDArray[np.int64]:
    """Return row · products + product of what each judged customer had bought before, in terms of ``asked``."""
    before = window.bought_before
    row = pd.Index(asked.customers).get_indexer(pd.Index(before[s.CUSTOMER_ID]))
    product = pd.Index(asked.catalog.ids).get_indexer(pd.Index(before[s.PRODUCT_ID]))
    inside = (row >= 0) & (product >= 0)
    return np.asarray(row[inside] * asked.relevant.n_products + product[inside], dtype=np.int64)


def _of_lists(judged: Evaluation, ground: Ground) -> dict[str, Any]:
    """Return what belongs to all lists together: coverage, inequality, sources, and the long tail."""
    asked = Questions.of(ground.window, ground.candidates.catalog, judged.policy)
    size = len(asked.catalog)
    shown = judged.ranked >= 0
    hit = hits(judged.ranked, asked.relevant)
    bought = asked.relevant.indices[asked.relevant.indices < size]
    counts = {
        "products": ground.tiers,
        "bought": ground.tiers[bought],
        "shown": ground.tiers[judged.ranked[shown]],
        "hits": ground.tiers[judged.ranked[hit]],
    }
    return {
        "coverage": judged.beyond["coverage"],
        "gini": judged.beyond["gini"],
        "unseen": judged.unseen,
        "sources": dict(judged.sources),
        "tiers": {what: np.bincount(tiers, minlength=len(TIERS)).tolist() for what, tiers in counts.items()},
    }


def _tiers(sold: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the place of each product in ``TIERS``: by rank of sales, ties by place in the catalog."""
    size = len(sold)
    rank = np.empty(size)
    rank[np.argsort(-sold, kind="stable")] = (np.arange(size) + 0.5) / max(size, 1)
    return np.digitize(rank, [_HEAD, 1 - _TAIL]).astype(np.int64)


def policy_rows(judged: Judged, policy: PurchasedPolicy) -> pd.DataFrame:
    """Return the rows of one purchased policy, by customer."""
    rows = judged.lists[judged.lists[POLICY] == policy]
    return rows.set_index(s.CUSTOMER_ID)
