"""A shop in which an experiment runs whose truth is planted: who saw what when, and what they then did."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from feature_repo import schema as s
from feature_repo.tables import write_tables

BEGUN = pd.Timestamp("2026-03-01", tz="UTC")
DAYS = 28
NAME = "homepage"
PRODUCTS = 40


def planted(
    *,
    customers: int = 6000,
    conversion: float = 0.2,
    lift: float = 0.0,
    returns: float = 0.05,
    more_returns: float = 0.0,
    lost: float = 0.0,
    narrow: bool = False,
    seed: int = 0,
) -> dict[str, pd.DataFrame]:
    """Return ``exposures`` and the tables of a shop.

    Half of the customers see the treatment, which multiplies the chance to buy by 1 + ``lift`` and that of a return by
    1 + ``more_returns``, loses the log of a share of its customers, and with ``narrow`` shows a quarter of the products
    only. Customers differ in how much they buy, in their past as in the window, and half of them have no past at all.
    """
    rng = np.random.default_rng(seed)
    ids = np.array([f"c{i:06d}" for i in range(customers)])
    treated = rng.random(customers) < 0.5
    start = BEGUN + pd.to_timedelta(rng.random(customers) * DAYS, unit="D")
    taste = rng.beta(0.6, 0.6 * (1 / conversion - 1), customers)
    chance = np.minimum(taste * np.where(treated, 1 + lift, 1.0), 1.0)
    has_past = rng.random(customers) < 0.5
    size = np.exp(rng.normal(3, 0.5, customers))

    events = []

    def happened(who: np.ndarray, when: pd.DatetimeIndex, kind: str, value: np.ndarray | float) -> None:
        product = rng.integers(PRODUCTS, size=len(who))
        events.append(
            pd.DataFrame(
                {
                    s.CUSTOMER_ID: who,
                    s.PRODUCT_ID: [f"p{i:02d}" for i in product],
                    s.AT: when,
                    s.KIND: kind,
                    s.VALUE: value,
                }
            )
        )

    bought = rng.random(customers) < chance
    days_after = pd.to_timedelta(0.01 + rng.random(customers) * 9, unit="D")
    happened(ids[bought], start[bought] + days_after[bought], s.PURCHASE, size[bought])
    back = bought & (rng.random(customers) < returns * np.where(treated, 1 + more_returns, 1.0))
    later = start + days_after + pd.Timedelta(days=1)
    happened(ids[back], later[back], s.RETURN, size[back])
    for ago in (10, 20, 30, 40):
        before = has_past & (rng.random(customers) < taste)
        happened(ids[before], start[before] - pd.Timedelta(days=ago), s.PURCHASE, size[before])
    clicks = rng.poisson(2 * taste / conversion)
    who = np.repeat(np.arange(customers), clicks)
    happened(ids[who], start[who] + pd.to_timedelta(rng.random(len(who)) * 13, unit="D"), s.CLICK, 0.0)

    answers = 1 + rng.poisson(1.5, customers)
    who = np.repeat(np.arange(customers), answers)
    first = np.r_[True, who[1:] != who[:-1]]
    when = start[who] + pd.to_timedelta(np.where(first, 0.0, rng.random(len(who)) * 13), unit="D")
    shown = rng.integers(PRODUCTS, size=(len(who), 3))
    if narrow:
        shown = np.where(treated[who, None], shown % (PRODUCTS // 4), shown)
    exposures = pd.DataFrame(
        {
            s.REQUEST_ID: np.repeat([f"r{i:07d}" for i in range(len(who))], 3),
            s.AT: when.repeat(3),
            s.CUSTOMER_ID: np.repeat(ids[who], 3),
            "experiment": NAME,
            "variant": np.repeat(np.where(treated[who], "treatment", "control"), 3),
            s.PRODUCT_ID: [f"p{i:02d}" for i in shown.ravel()],
        }
    )
    gone = ids[treated & (rng.random(customers) < lost)]
    exposures = exposures[~exposures[s.CUSTOMER_ID].isin(gone)].reset_index(drop=True)
    return {
        "exposures": exposures,
        s.INTERACTIONS: pd.concat(events, ignore_index=True),
        s.PRODUCTS: pd.DataFrame({s.PRODUCT_ID: [f"p{i:02d}" for i in range(PRODUCTS)]}),
        s.CUSTOMERS: pd.DataFrame({s.CUSTOMER_ID: ids, "region": rng.choice(["north", "south"], customers)}),
    }


def written(frames: dict[str, pd.DataFrame], directory: Path) -> Path:
    """Write what ``planted`` returned as ``nextbest events export`` and the importers would."""
    write_tables({name: frame for name, frame in frames.items() if name != "exposures"}, directory)
    frames["exposures"].to_parquet(directory / "exposures.parquet")
    return directory
