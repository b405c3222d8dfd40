"""Drift: an evaluation beside the previous one of the same tables, in its metrics and in what the models see.

Scores and customer features are counted in the bins of the earlier report, as the quality checks do it, so that two
small files tell what moved. Deliberately absent: any verdict on the models; a shifted feature is a question to the
shop.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import pandas as pd
import pyarrow.parquet as pq

from eval.evaluate import ALL
from eval.metrics import HR, NDCG
from eval.results import RESULTS, Drift, ListScore, MetricDelta, Results, Shift
from eval.scorecard import AUC
from feature_repo import schema as s
from feature_repo.quality_counts import Facet, count_facets
from feature_repo.quality_drift import compare_columns
from feature_repo.quality_profile import ColumnProfile
from serving.errors import DataError

if TYPE_CHECKING:
    import duckdb

_METRICS: Final = (NDCG, HR, AUC)
_VIEW: Final = "report_rows"


def previous(reports: Path, *, directory: str, k: int, before: datetime) -> tuple[Path, Results] | None:
    """Return the newest earlier results of the tables in ``directory`` with the same k; None where there are none."""
    found: tuple[Path, Results] | None = None
    for path in sorted(reports.glob(f"*/{RESULTS}")):
        try:
            results = Results.read(path)
        except DataError:
            continue
        if (results.data.directory, results.setting.k) != (directory, k) or results.run.made_at >= before:
            continue
        if found is None or results.run.made_at > found[1].run.made_at:
            found = path, results
    return found


def profiles(
    con: duckdb.DuckDBPyConnection,
    frames: Mapping[str, pd.DataFrame],
    *,
    like: Mapping[str, ColumnProfile] | None = None,
) -> dict[str, ColumnProfile]:
    """Return how numbers and texts are spread: ``kind: column`` → profile.

    Parameters
    ----------
    con
        Where it is counted.
    frames
        Kind → rows; lists, times and ids are passed over.
    like
        Earlier profiles in whose bins is counted.
    """
    found: dict[str, ColumnProfile] = {}
    for kind, frame in frames.items():
        rows = pd.DataFrame(
            {
                name: column.astype("float64") if pd.api.types.is_numeric_dtype(column) else column
                for name, column in frame.items()
                if _countable(column)
            }
        )
        facets = [
            Facet(
                f"{kind}: {name}",
                str(name),
                "float" if pd.api.types.is_numeric_dtype(rows[name]) else "string",
            )
            for name in rows.columns
        ]
        if not facets:
            continue
        con.register(_VIEW, rows)
        try:
            found |= count_facets(con, _VIEW, facets, like=like)
        finally:
            con.unregister(_VIEW)
    return found


def _countable(column: pd.Series[Any]) -> bool:
    if column.name in (s.CUSTOMER_ID, s.EVENT_TIMESTAMP) or pd.api.types.is_datetime64_any_dtype(column):
        return False
    return pd.api.types.is_numeric_dtype(column) or all(isinstance(value, str) for value in column)


def snapshot(view: Path, at: datetime) -> pd.DataFrame:
    """Return the newest rows of a feature view that were known at an instant; empty where there are none.

    Parameters
    ----------
    view
        Folder of the Parquet files of a view with one file a snapshot.
    at
        The instant.
    """
    newest = pd.DataFrame()
    stamp: pd.Timestamp | None = None
    for path in sorted(view.glob("*.parquet")):
        own = pd.to_datetime(pq.read_table(path, columns=[s.EVENT_TIMESTAMP]).column(0).to_pandas(), utc=True)
        if len(own) and own.max() <= pd.Timestamp(at) and (stamp is None or own.max() > stamp):
            stamp, newest = own.max(), pd.read_parquet(path)
    return newest


def drift(
    earlier: tuple[Path, Results],
    lists: Sequence[ListScore],
    *,
    tables_hash: str,
    now: Mapping[str, ColumnProfile],
) -> Drift:
    """Compare with earlier results.

    Parameters
    ----------
    earlier
        What ``previous`` found.
    lists
        The new pooled metrics.
    tables_hash
        Of the new tables.
    now
        New profiles, counted in the bins of the earlier ones.
    """
    path, then = earlier
    held = {(row.purchased, row.recipe): row for row in then.lists if row.at is None and row.dimension == ALL}
    deltas = [
        MetricDelta(
            purchased=row.purchased,
            recipe=row.recipe,
            metric=metric,
            then=held[row.purchased, row.recipe].metrics[metric],
            now=row.metrics[metric],
        )
        for row in lists
        if row.at is None and row.dimension == ALL and (row.purchased, row.recipe) in held
        for metric in _METRICS
        if metric in row.metrics and metric in held[row.purchased, row.recipe].metrics
    ]
    shifts = [
        Shift(
            column=d.column, psi=round(d.psi, 4), noise=round(d.noise, 4), verdict=_word(d.major, d.moderate)
        )
        for d in compare_columns(then.profiles, now)
        if d.then
    ]
    return Drift(
        previous=path.parent.name,
        made_at=then.run.made_at,
        same_tables=then.data.tables_hash == tables_hash,
        metrics=deltas,
        shifts=sorted(shifts, key=lambda shift: (-shift.psi, shift.column)),
    )


def _word(major: bool, moderate: bool) -> Literal["stable", "changed a little", "changed much"]:
    return "changed much" if major else "changed a little" if moderate else "stable"
