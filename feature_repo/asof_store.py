"""An offline store behind Feast's interface whose point-in-time join is one ASOF join a view, in DuckDB.

Feast's own DuckDB store joins every key with every earlier snapshot and then keeps the newest; the ASOF
join finds the newest by sorting both sides once. The engine finds row numbers only; the values are then
taken from the file by Arrow and put beside the caller's own columns. So no row can be dropped or
reordered, and values keep the file's types (in pandas, integers with gaps still become floats). Everything but
the join is Feast's.

Semantics, as documented by Feast: of the rows of a view with the same keys, the newest with a timestamp at
or before the asked instant, not older than the view's TTL; of several with one timestamp, the one created
last.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import duckdb
import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from feast import FeatureView
from feast.feature_view import DUMMY_ENTITY_ID
from feast.infra.offline_stores.duckdb import DuckDBOfflineStore
from feast.infra.offline_stores.offline_store import RetrievalJob, RetrievalMetadata
from feast.infra.offline_stores.offline_utils import infer_event_timestamp_from_entity_df
from feast.infra.registry.base_registry import BaseRegistry
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.repo_config import FeastConfigBaseModel, RepoConfig
from feast.saved_dataset import SavedDatasetStorage

from feature_repo.casts import quoted
from feature_repo.errors import DataError
from feature_repo.files import parquet_files, read_parquet

_ROW = "__row"
_AT = "__at"
_STAMP = "__stamp"
_FOUND = "__found"


class AsofOfflineStoreConfig(FeastConfigBaseModel):  # type: ignore[misc]
    """Settings of ``AsofOfflineStore``."""

    type: Literal["feature_repo.asof_store.AsofOfflineStore"] = "feature_repo.asof_store.AsofOfflineStore"
    memory_limit: str = "1GB"
    threads: int = 2
    staging_location: str | None = None
    staging_location_endpoint_override: str | None = None


@dataclass(frozen=True)
class _View:
    """One view of a join: which columns to take from which files, and the query that finds the rows."""

    files: list[Path]
    columns: dict[str, str]  # name in the result → name in the file
    find: str


class AsofRetrievalJob(RetrievalJob):  # type: ignore[misc]
    """The pending result of a point-in-time join."""

    def __init__(
        self,
        keys: pd.DataFrame,
        at: pd.Series[Any],
        views: list[_View],
        *,
        config: AsofOfflineStoreConfig,
        full_feature_names: bool,
        on_demand: list[OnDemandFeatureView],
        metadata: RetrievalMetadata,
    ) -> None:
        super().__init__()
        self._keys = keys
        self._at = at
        self._views = views
        self._config = config
        self._full_feature_names = full_feature_names
        self._on_demand = on_demand
        self._metadata = metadata

    @property
    def full_feature_names(self) -> bool:
        """Whether features are called ``view__feature``."""
        return self._full_feature_names

    @property
    def on_demand_feature_views(self) -> list[OnDemandFeatureView]:
        """The on-demand views to apply afterwards."""
        return self._on_demand

    @property
    def metadata(self) -> RetrievalMetadata:
        """What was asked."""
        return self._metadata

    def _features(self) -> pa.Table:
        rows = self._keys.assign(**{_ROW: np.arange(len(self._keys)), _AT: self._at.to_numpy()})
        columns: dict[str, pa.ChunkedArray] = {}
        with _engine(self._config) as con:
            con.register("keys", pa.Table.from_pandas(rows, preserve_index=False))
            for view in self._views:
                found = con.execute(view.find).fetchnumpy()
                numbers = np.full(len(rows), -1, dtype=np.int64)
                numbers[found[_ROW]] = np.ma.filled(found[_FOUND], -1)
                taken = _take(view.files, list(view.columns.values()), numbers)
                columns |= {name: taken[in_file] for name, in_file in view.columns.items()}
        return pa.table(columns)

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        features = self._features().to_pandas()
        features.index = self._keys.index
        return pd.concat([self._keys, features], axis=1)

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        table = pa.Table.from_pandas(self._keys, preserve_index=False)
        features = self._features()
        for name in features.column_names:
            table = table.append_column(name, features[name])
        return table

    def persist(
        self, storage: SavedDatasetStorage, allow_overwrite: bool = False, timeout: int | None = None
    ) -> None:
        """Refuse: results are kept as data frames, not as Feast data sets."""
        raise DataError(
            "expected a data frame to be taken from the join (to_df), found a request to persist it"
        )


def _take(files: list[Path], columns: list[str], numbers: npt.NDArray[np.int64]) -> pa.Table:
    """Return ``columns`` of the rows ``numbers`` of Parquet files put end to end, NULL where a number is −1.

    Row group by row group, so that files larger than memory can be asked for few rows.
    """
    wanted, place = np.unique(numbers[numbers >= 0], return_inverse=True)
    pieces = [pq.read_schema(files[0]).empty_table().select(columns)]
    start = 0
    for path in files:
        file = pq.ParquetFile(path)
        for group in range(file.num_row_groups):
            end = start + file.metadata.row_group(group).num_rows
            inside = wanted[np.searchsorted(wanted, start) : np.searchsorted(wanted, end)] - start
            if len(inside):
                pieces.append(file.read_row_group(group, columns=columns).take(pa.array(inside)))
            start = end
    indices = np.zeros(len(numbers), dtype=np.int64)
    indices[numbers >= 0] = place
    return pa.concat_tables(pieces).take(pa.array(indices, mask=numbers < 0))


class AsofOfflineStore(DuckDBOfflineStore):  # type: ignore[misc]
    """Feast's DuckDB store with the join replaced."""

    @staticmethod
    def get_historical_features(
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: pd.DataFrame | str,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,
        filter_by_created_timestamp: bool = False,
    ) -> RetrievalJob:
        """Return the pending join of ``entity_df`` with the asked features; see Feast's interface.

        Raises
        ------
        DataError
            ``entity_df`` is no data frame, or asks for what created timestamps alone can tell.
        """
        if not isinstance(entity_df, pd.DataFrame) or filter_by_created_timestamp:
            raise DataError(
                "expected a data frame of keys and instants, found a query or a filter by creation time; "
                "use the duckdb offline store for those"
            )
        stamp = infer_event_timestamp_from_entity_df(
            dict(zip(entity_df.columns, entity_df.dtypes, strict=True))
        )
        at = pd.to_datetime(entity_df[stamp], utc=True).dt.tz_localize(None)
        views: list[_View] = []
        with _engine(config.offline_store) as engine:
            for view in feature_views:
                names = [ref.split(":", 1)[1] for ref in feature_refs if ref.split(":", 1)[0] == _name(view)]
                views.append(_planned(engine, view, names, prefixed=full_feature_names))
        return AsofRetrievalJob(
            entity_df,
            at,
            views,
            config=config.offline_store,
            full_feature_names=full_feature_names,
            on_demand=OnDemandFeatureView.get_requested_odfvs(feature_refs, project, registry),
            metadata=RetrievalMetadata(
                features=feature_refs,
                keys=[name for name in entity_df.columns if name != stamp],
                min_event_timestamp=at.min().to_pydatetime(),
                max_event_timestamp=at.max().to_pydatetime(),
            ),
        )


def _engine(config: AsofOfflineStoreConfig) -> duckdb.DuckDBPyConnection:
    con = duckdb.connect()
    con.execute(f"SET memory_limit = '{config.memory_limit}'")
    con.execute(f"SET threads = {int(config.threads)}")
    con.execute("SET TimeZone = 'UTC'")
    # below this estimate of left rows DuckDB scans instead of sorting, and it has no estimate for data frames:
    # half a million rows took minutes
    con.execute("SET asof_loop_join_threshold = 0")
    return con


def _name(view: FeatureView) -> str:
    return str(view.projection.name_to_use())


def _planned(
    engine: duckdb.DuckDBPyConnection, view: FeatureView, names: list[str], *, prefixed: bool
) -> _View:
    """Plan the join of one view: which row of its file belongs to each row of ``keys``."""
    source = view.batch_source
    in_file = {new: old for old, new in source.field_mapping.items()}
    keys = view.projection.join_key_map or {column.name: column.name for column in view.entity_columns}
    keys = {ours: theirs for ours, theirs in keys.items() if ours != DUMMY_ENTITY_ID}

    def column(name: str) -> str:
        return quoted(in_file.get(name, name))

    stamp = f"CAST({quoted(source.timestamp_field)} AS TIMESTAMP)"
    files = parquet_files(Path(source.path))
    file = f"(SELECT *, {_place(files)} AS {_FOUND} FROM {read_parquet(files, file_row_number=True)})"
    selected = ", ".join(f"{column(name)} AS {quoted(name)}" for name in keys)
    rows = f"SELECT {selected}, {stamp} AS {_STAMP}, {_FOUND} FROM {file}"
    by_key = ", ".join([*map(column, keys), stamp])
    tied = engine.execute(f"SELECT count(*) > count(DISTINCT row({by_key})) FROM {file}").fetchone()
    if tied and tied[0]:
        # of rows with one key and timestamp the one created last; without a creation time, the last in the file
        created = source.created_timestamp_column
        order = [f"{quoted(created)} DESC NULLS LAST"] if created else []
        order.append(f"{_FOUND} DESC")
        rows += f" QUALIFY row_number() OVER (PARTITION BY {by_key} ORDER BY {', '.join(order)}) = 1"
    on = [f"k.{quoted(theirs)} = f.{quoted(ours)}" for ours, theirs in keys.items()]
    on.append(f"k.{_AT} >= f.{_STAMP}")
    fresh = "TRUE"
    if view.ttl:
        fresh = f"f.{_STAMP} + to_microseconds({view.ttl // timedelta(microseconds=1)}) >= k.{_AT}"
    prefix = f"{_name(view)}__" if prefixed else ""
    return _View(
        files,
        {f"{prefix}{name}": in_file.get(name, name) for name in names},
        f"SELECT k.{_ROW}, CASE WHEN {fresh} THEN f.{_FOUND} END AS {_FOUND} "
        f"FROM keys k ASOF LEFT JOIN ({rows}) f ON {' AND '.join(on)}",
    )


def _place(files: list[Path]) -> str:
    """SQL of the number of a row in all files put end to end."""
    if len(files) == 1:
        return "file_row_number"
    rows = [pq.read_metadata(path).num_rows for path in files]
    starts = np.concatenate([[0], np.cumsum(rows)[:-1]]).tolist()
    return f"{starts}[CAST(file_index AS BIGINT) + 1] + file_row_number"
