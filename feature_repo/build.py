"""Build the offline features: snapshots of slow aggregates and facts, recent history, and attributes.

The expressions are in ``snapshots`` and ``facts``; here they are evaluated instant by instant and put into
files that are whole or not there: a folder a view, a file a snapshot. Snapshots stand on a fixed grid (Mondays,
00:00 UTC) and at the final ``as_of``, so a later interaction changes no earlier row. Attributes enter only from
the instant from which they are known (``valid_from``); a table without it is known from the final ``as_of`` on,
but for what the shop declares constant, and so never reaches a past training row.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final

from feature_repo import names as v
from feature_repo import schema as s
from feature_repo.casts import quoted
from feature_repo.declared import Declarations
from feature_repo.engine import DuckDBEngine, Engine
from feature_repo.errors import DataError
from feature_repo.facts import (
    attribute_columns,
    attribute_rows,
    check_constants,
    fact_features,
    fact_snapshot,
    stage_measures,
)
from feature_repo.feature import YEAR
from feature_repo.features import schema_hash
from feature_repo.files import parquet_files, read_parquet
from feature_repo.recent import to_micros
from feature_repo.snapshots import customer_recent, customer_snapshot, product_snapshot
from feature_repo.staging import stage_events
from feature_repo.tables import Tables

FEATURES_FILE: Final = "features.json"
_GRID_START: Final = datetime(1970, 1, 5, tzinfo=UTC)  # a Monday
_RECENT_GROUP_ROWS: Final = 250_000

Progress = Callable[[str, int, int], None]
"""Called with (what, done, total) after each step of long work."""
EngineOf = Callable[[Tables, Path], Engine]
"""Makes the engine, given the tables and a scratch folder."""


@dataclass(frozen=True)
class FeatureSet:
    """What was built: the cut-off, the schema, and where the rows are.

    ``columns`` tells, by view, the columns that the shop's tables decide (facts and attributes) and their types;
    ``defaults`` what is served for a fact that is missing.
    """

    directory: Path
    as_of: datetime
    schema_hash: str
    tables_hash: str
    rows: dict[str, int]
    columns: dict[str, dict[str, str]]
    defaults: dict[str, dict[str, Any]]
    snapshots: int
    cadence_days: int

    @classmethod
    def read(cls, directory: Path) -> FeatureSet:
        """Read the description of features built earlier into ``directory``.

        Raises
        ------
        DataError
            Nothing was built there.
        """
        path = directory / FEATURES_FILE
        if not path.is_file():
            raise DataError(
                f"expected built features in {directory}, found none; run `nextbest features TABLES`"
            )
        try:
            told = json.loads(path.read_text())
            return cls(**{**told, "directory": directory, "as_of": datetime.fromisoformat(told["as_of"])})
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(
                f"expected the description of built features in {path}, found it unreadable; "
                "run `nextbest features TABLES`"
            ) from error

    def path(self, view: str) -> Path:
        """Return the folder of Parquet files of ``view``."""
        return self.directory / view


def snapshot_instants(active: Iterable[datetime], as_of: datetime, cadence_days: int = 7) -> list[datetime]:
    """Instants of the grid before ``as_of`` with an interaction in the year before them, then ``as_of`` itself.

    ``active`` holds the first instants of the weeks (Mondays) in which anything happened, in any order. An
    instant with nothing in its last year would repeat the one before: no window of a feature is longer. The
    grid is counted from a Monday, so a weekly one stands on Mondays.
    """
    cadence = timedelta(days=cadence_days)
    grid: set[datetime] = set()
    for week in active:
        number = (week - _GRID_START) // cadence + 1
        while (instant := _GRID_START + number * cadence) <= week + timedelta(days=YEAR + 7):
            grid.add(instant)
            number += 1
    return [*sorted(instant for instant in grid if instant < as_of), as_of]


def _active_weeks(tables: Tables) -> list[datetime]:
    weeks = tables.con.execute(
        f"SELECT DISTINCT date_trunc('week', {quoted(s.AT)}) FROM {s.INTERACTIONS} ORDER BY 1"
    ).fetchall()
    return [datetime.combine(week, datetime.min.time(), UTC) for (week,) in weeks]


def build(
    tables: Tables,
    directory: Path,
    *,
    as_of: datetime | None = None,
    engine: EngineOf = DuckDBEngine,
    progress: Progress | None = None,
) -> FeatureSet:
    """Build every offline view into ``directory`` (one folder of Parquet files a view) and describe them.

    Parameters
    ----------
    tables
        The input tables.
    directory
        Where the files go; earlier ones are replaced when all new ones are whole.
    as_of
        Knowledge cut-off; default just after the last interaction.
    engine
        What evaluates the expressions, given the tables and a scratch folder.

    Raises
    ------
    DataError
        No interaction lies before ``as_of``.
    ConfigError
        What is declared about the tables does not fit them.
    """
    first, last = tables.span()
    as_of = as_of or last + timedelta(microseconds=1)
    if first >= as_of:
        raise DataError(
            f"expected interactions before {as_of}, found the first at {first}; choose a later --as-of"
        )
    declared = Declarations.read(tables.directory)
    check_constants(tables, declared)
    staging = directory.with_name(directory.name + ".building")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    running = engine(tables, staging / "scratch")
    try:
        build_of = _Build(running, declared, as_of, staging, progress or (lambda what, done, total: None))
        instants = snapshot_instants(_active_weeks(tables), as_of, declared.cadence_days)
        build_of.snapshots(instants)
        build_of.recent_history()
        build_of.attributes()
    finally:
        running.close()
    views = sorted(path for path in staging.iterdir() if path.is_dir())
    feature_set = FeatureSet(
        directory=directory,
        as_of=as_of,
        schema_hash=schema_hash(),
        tables_hash=tables.hash(),
        rows={path.name: _rows(tables, path) for path in views},
        columns=build_of.columns,
        defaults=build_of.defaults,
        snapshots=len(instants),
        cadence_days=declared.cadence_days,
    )
    _publish(feature_set, staging)
    return feature_set


class _Build:
    """The views of one build, written one after the other into the folders of ``staging``."""

    def __init__(
        self, engine: Engine, declared: Declarations, as_of: datetime, staging: Path, said: Progress
    ) -> None:
        self._engine = engine
        self._declared = declared
        self._as_of = as_of
        self._staging = staging
        self._said = said
        self._events = stage_events(engine)
        self.columns: dict[str, dict[str, str]] = {}
        self.defaults: dict[str, dict[str, Any]] = {}

    def _folder(self, view: str) -> Path:
        folder = self._staging / view
        folder.mkdir(exist_ok=True)
        return folder

    def snapshots(self, instants: list[datetime]) -> None:
        """Write the snapshots of customers, products and facts; a product's follow those of the customers."""
        engine, events = self._engine, self._events
        segments: Any = None

        def products(instant: Any) -> Any:
            return product_snapshot(engine, events, instant, segments)

        write_customers = engine.writer(partial(customer_snapshot, engine, events))
        write_products = None
        facts = self._fact_writers()
        for number, instant in enumerate(instants, start=1):
            name = f"{instant:%Y%m%dT%H%M%S%f}.parquet"
            customers = self._folder(v.CUSTOMER_FEATURES) / name
            write_customers(instant, customers)
            segments = engine.view("segments", customers)
            write_products = write_products or engine.writer(products)
            write_products(instant, self._folder(v.PRODUCT_FEATURES) / name)
            for view, write in facts.items():
                write(instant, self._folder(view) / name)
            self._said("snapshots", number, len(instants))

    def _fact_writers(self) -> dict[str, Callable[[datetime, Path], None]]:
        writers = {}
        for view, table, entity in (
            (v.CUSTOMER_FACTS, s.CUSTOMERS, s.CUSTOMER_ID),
            (v.PRODUCT_FACTS, s.PRODUCTS, s.PRODUCT_ID),
        ):
            features = fact_features(self._engine, table)
            if not features:
                continue
            measured = table == s.CUSTOMERS and self._engine.tables.has(s.MEASURES)
            measures = stage_measures(self._engine) if measured else None

            snapshot = partial(
                fact_snapshot,
                self._engine,
                measures,
                table=table,
                entity=entity,
                declared=self._declared,
                final_us=to_micros(self._as_of),
            )
            writers[view] = self._engine.writer(snapshot)
            self.columns[view] = {feature.name: feature.dtype for feature in features}
            self.defaults[view] = {feature.name: feature.default for feature in features}
        return writers

    def recent_history(self) -> None:
        """Write ``customer_recent`` customer group by customer group: lists are long, memory is not."""
        events = self._events
        rows = int(events.count().execute())
        customers = int(events.customer.max().fill_null(0).execute())
        groups = rows // _RECENT_GROUP_ROWS + 1
        size = customers // groups + 1
        for number in range(groups):
            start = number * size
            mine = events.filter((events.customer >= start) & (events.customer < start + size))
            write = self._engine.writer(partial(customer_recent, self._engine, mine))
            write(self._as_of, self._folder(v.CUSTOMER_RECENT) / f"{number:05d}.parquet")
            self._said("recent history", number + 1, groups)

    def attributes(self) -> None:
        """Write what is told of customers and products, from when it was told."""
        for view, table, entity in (
            (v.CUSTOMER_ATTRIBUTES, s.CUSTOMERS, s.CUSTOMER_ID),
            (v.PRODUCT_ATTRIBUTES, s.PRODUCTS, s.PRODUCT_ID),
        ):
            columns = attribute_columns(self._engine, table, self._declared)
            if columns:
                rows = attribute_rows(
                    self._engine,
                    table=table,
                    entity=entity,
                    declared=self._declared,
                    final_us=to_micros(self._as_of),
                )
                self._engine.write(rows, self._folder(view) / "rows.parquet")
                self.columns[view] = dict(columns)


def _rows(tables: Tables, folder: Path) -> int:
    found = tables.con.execute(f"SELECT count(*) FROM {read_parquet(parquet_files(folder))}").fetchone()
    return int(found[0]) if found else 0


def _publish(feature_set: FeatureSet, staging: Path) -> None:
    """Move whole folders into place; the description goes last, so it never describes half a build."""
    told = {key: value for key, value in asdict(feature_set).items() if key != "directory"}
    told["as_of"] = feature_set.as_of.isoformat()
    (staging / FEATURES_FILE).write_text(json.dumps(told, indent=1, ensure_ascii=False))
    target = feature_set.directory
    target.mkdir(parents=True, exist_ok=True)
    (target / FEATURES_FILE).unlink(missing_ok=True)
    for view in v.VIEWS:
        shutil.rmtree(target / view, ignore_errors=True)
    for path in [*sorted(p for p in staging.iterdir() if p.is_dir()), staging / FEATURES_FILE]:
        path.replace(target / path.name)
    staging.rmdir()
