"""An interleaved experiment whose truth is planted: how much likelier customers click what one variant picked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from eval.experiment.interleaving import INTERLEAVED
from feature_repo import schema as s
from feature_repo.tables import write_tables
from tests.planted_experiment import BEGUN, DAYS

NAME = "draft"
TEAMS = np.array(["control", "trees"])
_SLOTS = 6


def drafts(
    *,
    customers: int = 1500,
    better: float = 1.0,
    coin: float = 0.5,
    click: float = 0.08,
    buy: float = 0.2,
    nameless: float = 0.5,
    sessions: float = 0.0,
    seed: int = 0,
) -> dict[str, pd.DataFrame]:
    """Return ``exposures`` and ``interactions``.

    Each answer is drafted in rounds of two picks, the coin giving the first of each to ``trees`` with the chance
    ``coin``. A product is clicked with a chance that differs between customers and falls with its place; ``better``
    multiplies it for what ``trees`` picked. A share ``buy`` of what is clicked is bought an hour later, of which
    ``nameless`` of them name no request. A share of ``sessions`` has no known customer.
    """
    rng = np.random.default_rng(seed)
    answers = 1 + rng.poisson(1.0, customers)
    who = np.repeat(np.arange(customers), answers)
    n = len(who)
    at = BEGUN + pd.to_timedelta(rng.random(n) * DAYS, unit="D")
    first = rng.random((n, _SLOTS // 2)) < coin
    team = np.stack([first, ~first], axis=2).reshape(n, _SLOTS).astype(int)
    product = rng.permuted(np.tile(np.arange(40), (n, 1)), axis=1)[:, :_SLOTS]
    eager = rng.gamma(1.0, 1.0, customers)[who]
    chance = click * eager[:, None] / np.arange(1, _SLOTS + 1) ** 0.5 * np.where(team == 1, better, 1.0)
    clicked = rng.random((n, _SLOTS)) < np.minimum(chance, 1.0)
    bought = clicked & (rng.random((n, _SLOTS)) < buy)
    unknown = rng.random(customers) < sessions
    ids = np.array([f"c{i:05d}" for i in range(customers)], dtype=object)
    shown = pd.DataFrame(
        {
            s.REQUEST_ID: np.repeat([f"r{i:06d}" for i in range(n)], _SLOTS),
            s.AT: at.repeat(_SLOTS),
            s.CUSTOMER_ID: np.repeat(np.where(unknown, None, ids)[who], _SLOTS),
            "session_id": np.repeat(np.where(unknown, ids, None)[who], _SLOTS),
            "experiment": NAME,
            "variant": INTERLEAVED,
            "position": np.tile(np.arange(1, _SLOTS + 1), n),
            s.PRODUCT_ID: [f"p{i:02d}" for i in product.ravel()],
            "team": TEAMS[team.ravel()],
        }
    )

    def happened(mask: np.ndarray, kind: str, hours: float) -> pd.DataFrame:
        rows = shown[mask.ravel()]
        return pd.DataFrame(
            {
                s.CUSTOMER_ID: rows[s.CUSTOMER_ID],
                s.PRODUCT_ID: rows[s.PRODUCT_ID],
                s.AT: rows[s.AT] + pd.Timedelta(hours=hours),
                s.KIND: kind,
                s.VALUE: 10.0 if kind == s.PURCHASE else 0.0,
                s.REQUEST_ID: rows[s.REQUEST_ID],
            }
        )

    purchases = happened(bought, s.PURCHASE, 1.0)
    lost = (rng.random(len(purchases)) < nameless) & purchases[s.CUSTOMER_ID].notna()
    purchases[s.REQUEST_ID] = purchases[s.REQUEST_ID].mask(lost, None)
    events = pd.concat([happened(clicked, s.CLICK, 0.01), purchases], ignore_index=True)
    return {"exposures": shown, s.INTERACTIONS: events}


def written_drafts(frames: dict[str, pd.DataFrame], directory: Path) -> Path:
    """Write what ``drafts`` returned as ``nextbest events export`` would."""
    products = pd.DataFrame({s.PRODUCT_ID: [f"p{i:02d}" for i in range(40)]})
    write_tables({s.INTERACTIONS: frames[s.INTERACTIONS], s.PRODUCTS: products}, directory)
    frames["exposures"].to_parquet(directory / "exposures.parquet")
    return directory
