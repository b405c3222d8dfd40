"""A gap before the last interactions: noticed in the tables, before anything is built of them.

The gate judges by the last ``horizon_days`` of purchases, and a ranker is learnt from its own last ones. A shop whose
tables stopped long ago and got a few events since has next to none there: what is live would stay live, but only after
features, judging and a fit. Counted are purchases that might serve, so that nothing is refused that could go well.
"""

from __future__ import annotations

from datetime import timedelta

import pandas as pd

from feature_repo import schema as s
from feature_repo.tables import Tables
from serving.errors import DataError
from serving.manifest import Manifest
from training.ranker import keys
from training.recipe import Recipe, TrainConfig


def refuse_gap(tables: Tables, config: TrainConfig, champion: Recipe | None, live: Manifest | None) -> None:
    """Refuse tables whose last days are too empty for what is live to be replaced.

    Parameters
    ----------
    tables
        What is to be learnt from.
    config
        The recipes that compete; where none of them has a ranker, that of the champion may go.
    champion, live
        The live recipe and the manifest of its bundle; None where nothing is live.

    Raises
    ------
    DataError
        Nobody bought anything in the days that judge, or too few did to learn the ranker of what is live anew.
    """
    rows = tables.frame(s.INTERACTIONS, [s.CUSTOMER_ID, s.PRODUCT_ID, s.AT, s.KIND])
    end = rows[s.AT].max()
    bought = rows[(rows[s.KIND] == s.PURCHASE) & rows[s.CUSTOMER_ID].notna()]
    _refuse_fewer(bought, 1, config.horizon_days, end, "to judge recipes by", tables)
    asks = any(recipe.ranker is not None for recipe in config.recipes)
    has_ranker = live is not None and live.policy.ranker is not None
    if asks and has_ranker and champion is not None and champion.ranker is not None:
        _refuse_fewer(
            bought,
            keys.FEWEST,
            champion.ranker.horizon_days,
            end,
            f"to learn a ranker for {champion.name} from, since what is live under this name has one",
            tables,
            "; or give recipes without [recipes.ranker] (--config)",
        )


def _refuse_fewer(
    bought: pd.DataFrame,
    fewest: int,
    days: int,
    end: pd.Timestamp,
    why: str,
    tables: Tables,
    otherwise: str = "",
) -> None:
    start = end - timedelta(days=days)
    inside = bought[s.AT] >= start
    found = len(bought.loc[inside, [s.CUSTOMER_ID, s.PRODUCT_ID]].drop_duplicates())
    if found >= fewest:
        return
    before = bought.loc[~inside, s.AT].max()
    last = "" if pd.isna(before) else f" (the last one before is of {before:%Y-%m-%d})"
    raise DataError(
        f"expected at least {fewest} purchase{'s' * (fewest > 1)} by known customers from {start:%Y-%m-%d} to "
        f"{end:%Y-%m-%d}, the last {days} days of {tables.directory}, {why}; found {found}{last}; nothing is published "
        "and what is live stays live: put what was sold in these days into the tables, or run it again once there are "
        f"more{otherwise}"
    )
