"""From the event log to the tables: what was logged since the last export becomes interactions.

The new rows go behind those that ``interactions.parquet`` holds, into a new file that takes the place of the old one
in one step; how far the log was exported stands in that very file. So an export that is killed, or done twice, adds
nothing twice and loses nothing.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from feature_repo import schema as s
from serving.errors import ConfigError, DataError
from serving.events import EVENTS, Event, EventLog

_OFFSET: Final = b"nextbest.events.offset"
_PAGE: Final = 5_000
_NEW: Final = pa.schema(
    [
        (s.CUSTOMER_ID, pa.string()),
        (s.PRODUCT_ID, pa.string()),
        (s.AT, pa.timestamp("us", tz="UTC")),
        (s.KIND, pa.string()),
        (s.VALUE, pa.float64()),
        (s.REQUEST_ID, pa.string()),
    ]
)


def export(log: EventLog, directory: Path) -> int:
    """Append the interactions of the log to the tables in ``directory``; return how many.

    Parameters
    ----------
    log
        The event log; impressions and dismissals in it are no interactions.
    directory
        Where ``interactions.parquet`` is, or will be.

    Raises
    ------
    ConfigError
        The directory holds interactions in another form.
    DataError
        The file cannot be read, or its columns are of types that events cannot be written as.
    """
    path = directory / f"{s.INTERACTIONS}.parquet"
    if path.with_suffix(".csv").exists():
        raise ConfigError(
            f"expected {path.name} or no interactions in {directory}, found {path.with_suffix('.csv').name}; "
            "convert it, or export to another directory"
        )
    directory.mkdir(parents=True, exist_ok=True)
    held = _opened(path) if path.exists() else None
    offset = None if held is None else (held.metadata.metadata or {}).get(_OFFSET)
    place = None if offset is None else offset.decode()
    schema = _NEW if held is None else _joined(held.schema_arrow)
    staged = path.with_suffix(".exporting")
    count = 0
    with pq.ParquetWriter(staged, schema) as writer:
        if held is not None:
            for batch in held.iter_batches():
                writer.write_table(_as(pa.Table.from_batches([batch]), schema, path))
        while entries := log.read(EVENTS, after=place, limit=_PAGE):
            rows = [entry.record for entry in entries if entry.record.kind in s.KINDS]
            writer.write_table(_as(_table(rows), schema, path))
            count, place = count + len(rows), entries[-1].offset
        if place is not None:
            writer.add_key_value_metadata({_OFFSET: place.encode()})
    with staged.open("rb") as file:
        os.fsync(file.fileno())
    staged.replace(path)
    return count


def _opened(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"expected a Parquet file at {path}, found: {error}; restore it") from error


def _joined(schema: pa.Schema) -> pa.Schema:
    """Return the columns of the file, then those of events that it does not have."""
    return pa.schema([*schema, *(field for field in _NEW if field.name not in schema.names)])


def _table(events: Sequence[Event]) -> pa.Table:
    columns = {
        s.CUSTOMER_ID: [event.customer_id for event in events],
        s.PRODUCT_ID: [event.product_id for event in events],
        s.AT: [event.at for event in events],
        s.KIND: [event.kind for event in events],
        s.VALUE: [event.value for event in events],
        s.REQUEST_ID: [event.request_id for event in events],
    }
    return pa.table({name: pa.array(values, _NEW.field(name).type) for name, values in columns.items()})


def _as(table: pa.Table, schema: pa.Schema, path: Path) -> pa.Table:
    """Return the table with the columns of ``schema``: cast where types differ, null where there are none."""
    columns = []
    for field in schema:
        if field.name not in table.column_names:
            columns.append(pa.nulls(len(table), field.type))
            continue
        try:
            columns.append(table[field.name].cast(field.type))
        except pa.ArrowException as error:
            raise DataError(
                f"expected {path.name} to hold {field.name} as {_NEW.field(field.name).type}, found {field.type} "
                f"({error}); write it anew with `nextbest import`"
            ) from error
    return pa.table(columns, schema=schema)
