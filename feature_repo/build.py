"""Build the offline features: weekly snapshots of slow aggregates and the recent history of customers.

The expressions are in ``snapshots``; here they are evaluated instant by instant and put into files that are
whole or not there. Snapshots stand on a fixed grid (Mondays, 00:00 UTC) and at the final ``as_of``, so a later
interaction changes no earlier row. Customer and product attributes enter only from the instant from which they
are known (``valid_from``); a table without it is known from the final ``as_of`` on, and so never reaches a past
training row.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from feature_repo import names as v
from feature_repo import schema as s
from feature_repo.casts import quoted
from feature_repo.errors import DataError
from feature_repo.features import YEAR, schema_hash
from feature_repo.snapshots import (
    attribute_rows,
    customer_recent,
    customer_snapshot,
    product_snapshot,
    stage_events,
)
from feature_repo.tables import Tables

FEATURES_FILE: Final = "features.json"
CADENCE: Final = timedelta(days=7)
_RECENT_GROUP_ROWS: Final = 50_000

Progress = Callable[[str, int, int], None]
"""Called with (what, done, total) after each step of long work."""


@dataclass(frozen=True)
class FeatureSet:
    """What was built: the cut-off, the schema, and where the rows are."""

    directory: Path
    as_of: datetime
    schema_hash: str
    tables_hash: str
    rows: dict[str, int]
    attributes: dict[str, dict[str, str]]
    snapshots: int

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
        """Return the Parquet file of ``view``."""
        return self.directory / f"{view}.parquet"


def snapshot_instants(active: Iterable[datetime], as_of: datetime) -> list[datetime]:
    """Mondays 00:00 UTC before ``as_of`` with an interaction in the year before them, then ``as_of`` itself.

    ``active`` holds the first instants of the weeks (Mondays) in which anything happened, in any order. A
    Monday with nothing in its last year would repeat the one before: no window of a feature is longer.
    """
    grid: set[datetime] = set()
    for week in active:
        grid.update(week + CADENCE * number for number in range(1, YEAR // CADENCE.days + 2))
    return [*sorted(monday for monday in grid if monday < as_of), as_of]


def _active_weeks(tables: Tables) -> list[datetime]:
    weeks = tables.con.execute(
        f"SELECT DISTINCT date_trunc('week', {quoted(s.AT)}) FROM {s.INTERACTIONS} ORDER BY 1"
    ).fetchall()
    return [datetime.combine(week, datetime.min.time(), UTC) for (week,) in weeks]


def _write_recent(tables: Tables, events: Any, as_of: datetime, staging: Path) -> None:
    """Write ``customer_recent`` customer group by customer group: lists are long, memory is not."""
    groups = int(events.count().execute()) // _RECENT_GROUP_ROWS + 1
    for group in range(groups):
        mine = events.filter(events[s.CUSTOMER_ID].hash().abs() % groups == group)
        _write(tables, customer_recent(mine, as_of), staging / f"{v.CUSTOMER_RECENT}-{group:05d}.part")
    _merge(tables, v.CUSTOMER_RECENT, staging)


def build(
    tables: Tables, directory: Path, *, as_of: datetime | None = None, progress: Progress | None = None
) -> FeatureSet:
    """Build every offline view into ``directory`` (one Parquet file a view) and describe them.

    Parameters
    ----------
    tables
        The input tables.
    directory
        Where the files go; earlier ones are replaced when all new ones are whole.
    as_of
        Knowledge cut-off; default just after the last interaction.

    Raises
    ------
    DataError
        No interaction lies before ``as_of``.
    """
    first, last = tables.span()
    as_of = as_of or last + timedelta(microseconds=1)
    if first >= as_of:
        raise DataError(
            f"expected interactions before {as_of}, found the first at {first}; choose a later --as-of"
        )
    said = progress or (lambda what, done, total: None)
    staging = directory.with_name(directory.name + ".building")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    events = stage_events(tables)
    instants = snapshot_instants(_active_weeks(tables), as_of)
    snapshots = {v.CUSTOMER_FEATURES: customer_snapshot, v.PRODUCT_FEATURES: product_snapshot}
    for number, instant in enumerate(instants, start=1):
        for view, snapshot in snapshots.items():
            _write(tables, snapshot(events, instant), staging / f"{view}-{number:05d}.part")
        said("snapshots", number, len(instants))
    for view in snapshots:
        _merge(tables, view, staging)
    _write_recent(tables, events, as_of, staging)
    said("recent history", 1, 1)
    attributes: dict[str, dict[str, str]] = {}
    for view, name, entity in _attribute_views():
        rows = attribute_rows(tables, name, entity, as_of)
        if rows is not None:
            _write(tables, rows, staging / f"{view}.parquet")
            attributes[view] = dict(tables.attributes(name))
    feature_set = FeatureSet(
        directory=directory,
        as_of=as_of,
        schema_hash=schema_hash(),
        tables_hash=tables.hash(),
        rows={path.stem: _rows(tables, path) for path in sorted(staging.glob("*.parquet"))},
        attributes=attributes,
        snapshots=len(instants),
    )
    _publish(feature_set, staging)
    return feature_set


def _attribute_views() -> Iterator[tuple[str, str, str]]:
    yield v.CUSTOMER_ATTRIBUTES, s.CUSTOMERS, s.CUSTOMER_ID
    yield v.PRODUCT_ATTRIBUTES, s.PRODUCTS, s.PRODUCT_ID


def _write(tables: Tables, rows: Any, path: Path) -> None:
    tables.ibis.to_parquet(rows, str(path), compression="zstd")


def _quoted(path: Path) -> str:
    return "'" + str(path).replace("'", "''") + "'"


def _merge(tables: Tables, view: str, staging: Path) -> None:
    """Make one file of the snapshots of ``view``, oldest first."""
    parts = sorted(staging.glob(f"{view}-*.part"))
    listed = ", ".join(_quoted(part) for part in parts)
    target = _quoted(staging / f"{view}.parquet")
    tables.con.execute(
        f"COPY (SELECT * FROM read_parquet([{listed}])) TO {target} (FORMAT parquet, COMPRESSION zstd)"
    )
    for part in parts:
        part.unlink()


def _rows(tables: Tables, path: Path) -> int:
    found = tables.con.execute(f"SELECT count(*) FROM read_parquet({_quoted(path)})").fetchone()
    return int(found[0]) if found else 0


def _publish(feature_set: FeatureSet, staging: Path) -> None:
    """Move whole files into place; the description goes last, so it never describes half a build."""
    told = {key: value for key, value in asdict(feature_set).items() if key != "directory"}
    told["as_of"] = feature_set.as_of.isoformat()
    (staging / FEATURES_FILE).write_text(json.dumps(told, indent=1, ensure_ascii=False))
    feature_set.directory.mkdir(parents=True, exist_ok=True)
    (feature_set.directory / FEATURES_FILE).unlink(missing_ok=True)
    for path in [*sorted(staging.glob("*.parquet")), staging / FEATURES_FILE]:
        path.replace(feature_set.directory / path.name)
    staging.rmdir()
