"""The newest features as CSV files that a spreadsheet opens rightly, with what each column means beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from feature_repo import names as v
from feature_repo import schema as s
from feature_repo.build import FeatureSet
from feature_repo.features import VIEWS
from feature_repo.spreadsheet import write_csv
from feature_repo.store import latest
from feature_repo.tables import Tables

DEFINITIONS: Final = "definitions.csv"


def export_features(features: FeatureSet, tables: Tables, directory: Path) -> dict[str, int]:
    """Write the newest row of every entity, a file a view, products with their names; return the rows by view.

    The recent history, which is a list of events and not a table of numbers, is left out.
    ``definitions.csv`` tells of every column of the declarative lists its type, window, default and meaning.
    """
    directory.mkdir(parents=True, exist_ok=True)
    known = (
        tables.frame(s.PRODUCTS, [s.PRODUCT_ID, s.NAME]).dropna().drop_duplicates(s.PRODUCT_ID, keep="last")
    )
    named = dict(zip(known[s.PRODUCT_ID], known[s.NAME], strict=True))
    written: dict[str, int] = {}
    for view in features.rows:
        if view == v.CUSTOMER_RECENT:
            continue
        rows = latest(features, view)
        if rows.columns[0] == s.PRODUCT_ID:
            rows.insert(1, s.NAME, rows[s.PRODUCT_ID].map(named))
        write_csv(directory / f"{view}.csv", list(rows.columns), rows.itertuples(index=False, name=None))
        written[view] = len(rows)
    listed = [
        (view, feature.name, feature.dtype, feature.window_days, feature.default, feature.definition)
        for view, declared in VIEWS.items()
        for feature in declared
    ]
    columns = ("view", "feature", "type", "window_days", "default", "definition")
    write_csv(directory / DEFINITIONS, columns, listed)
    return written
