"""From the event log to the tables: what was logged since the last export becomes interactions and exposures.

The new rows go behind those that the file holds, into a new file that takes the place of the old one in one step;
how far the log was exported stands in that very file. So an export that is killed, or done twice, adds nothing twice
and loses nothing. Where nothing is new the file stays as it is, to the byte.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Final, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from feature_repo import schema as s
from serving.errors import ConfigError, DataError
from serving.events import EVENTS, EXPOSURES, Entry, Event, EventLog, Exposure, Stream

R = TypeVar("R", Event, Exposure)

_OFFSET: Final = b"nextbest.events.offset"
_PAGE: Final = 5_000
_SHOWN: Final = pa.schema(
    [
        (s.REQUEST_ID, pa.string()),
        (s.AT, pa.timestamp("us", tz="UTC")),
        (s.CUSTOMER_ID, pa.string()),
        ("session_id", pa.string()),
        ("surface", pa.string()),
        ("experiment", pa.string()),
        ("variant", pa.string()),
        ("bundle", pa.string()),
        ("rules", pa.string()),
        ("forced", pa.bool_()),
        ("conditions", pa.string()),
        ("position", pa.int32()),
        (s.PRODUCT_ID, pa.string()),
        ("score", pa.float64()),
        ("source", pa.string()),
        (s.PROPENSITY, pa.float64()),
        ("team", pa.string()),
    ]
)
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


def export(log: EventLog, directory: Path, *, until: int | None = None) -> int:
    """Append the interactions of the log to the tables in ``directory``; return how many.

    Parameters
    ----------
    log
        The event log; impressions and dismissals in it are no interactions.
    directory
        Where ``interactions.parquet`` is, or will be.
    until
        What was logged after this instant (microseconds) is left to the next export.

    Raises
    ------
    ConfigError
        There are interactions to append, and the directory holds some in another form.
    DataError
        The file cannot be read, or its columns are of types that events cannot be written as.
    """
    path = directory / f"{s.INTERACTIONS}.parquet"
    return _append(log, EVENTS, path, _NEW, _interactions, until=until)


def export_exposures(log: EventLog, directory: Path, *, until: int | None = None) -> int:
    """Append what was shown to ``exposures.parquet`` in ``directory``, a row a product; return how many.

    ``position`` is the place in the answer, 1 the first; ``rules``, the hash of its rules; ``forced``,
    whether a tester asked for the variant by name; ``conditions``, what the request asked besides, as JSON; ``team``,
    in an interleaved experiment, the variant whose pick a product was. The tables do not name this file: it is for
    experiments, and for whoever asks later what was shown.

    Raises
    ------
    DataError
        The file cannot be read, or holds something else.
    """
    return _append(log, EXPOSURES, directory / f"{EXPOSURES.name}.parquet", _SHOWN, _shown, until=until)


def _append(
    log: EventLog,
    stream: Stream[R],
    path: Path,
    new: pa.Schema,
    rows_of: Callable[[Sequence[Entry[R]]], pa.Table],
    *,
    until: int | None,
) -> int:
    """Append the rows of what was logged since the offset that stands in the file; return how many."""
    held = _opened(path) if path.exists() else None
    offset = None if held is None else (held.metadata.metadata or {}).get(_OFFSET)
    pages = _pages(log, stream, None if offset is None else offset.decode(), until)
    found = ((rows_of(entries), entries[-1].offset) for entries in pages)
    first = next(((rows, place) for rows, place in found if len(rows)), None)
    if first is None:
        return 0
    if path.with_suffix(".csv").exists():
        raise ConfigError(
            f"expected {path.name} or no {path.stem} in {path.parent}, found {path.with_suffix('.csv').name}; "
            "convert it, or export to another directory"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    schema = new if held is None else _joined(held.schema_arrow, new)
    staged = path.with_suffix(".exporting")
    count = 0
    with pq.ParquetWriter(staged, schema) as writer:
        if held is not None:
            for batch in held.iter_batches():
                writer.write_table(_as(pa.Table.from_batches([batch]), schema, path))
        for rows, last in chain([first], found):
            writer.write_table(_as(rows, schema, path))
            count, place = count + len(rows), last
        writer.add_key_value_metadata({_OFFSET: place.encode()})
    with staged.open("rb") as file:
        os.fsync(file.fileno())
    staged.replace(path)
    return count


def _pages(
    log: EventLog, stream: Stream[R], place: str | None, until: int | None
) -> Iterator[Sequence[Entry[R]]]:
    """Yield what was logged after ``place`` and not after ``until``, page by page, none of them empty."""
    while entries := log.read(stream, after=place, limit=_PAGE):
        place = entries[-1].offset
        kept = [entry for entry in entries if until is None or entry.logged_at <= until]
        if kept:
            yield kept
        if len(kept) < len(entries):
            return


def _opened(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"expected a Parquet file at {path}, found: {error}; restore it") from error


def _joined(schema: pa.Schema, new: pa.Schema) -> pa.Schema:
    """Return the columns of the file, then the new ones that it does not have."""
    return pa.schema([*schema, *(field for field in new if field.name not in schema.names)])


def _interactions(entries: Sequence[Entry[Event]]) -> pa.Table:
    events = [entry.record for entry in entries if entry.record.kind in s.KINDS]
    columns = {
        s.CUSTOMER_ID: [event.customer_id for event in events],
        s.PRODUCT_ID: [event.product_id for event in events],
        s.AT: [event.at for event in events],
        s.KIND: [event.kind for event in events],
        s.VALUE: [event.value for event in events],
        s.REQUEST_ID: [event.request_id for event in events],
    }
    return pa.table({name: pa.array(values, _NEW.field(name).type) for name, values in columns.items()})


def _shown(entries: Sequence[Entry[Exposure]]) -> pa.Table:
    rows = [
        (
            *(one.request_id, one.at, one.customer_id, one.session_id, one.surface),
            *(one.experiment, one.variant, one.bundle, one.rules, one.forced, one.conditions),
            *(position, item.product_id, item.score, item.source, item.propensity, item.team),
        )
        for one in (entry.record for entry in entries)
        for position, item in enumerate(one.items, start=1)
    ]
    columns = zip(*rows, strict=True) if rows else [()] * len(_SHOWN)
    return pa.table(
        [pa.array(values, field.type) for values, field in zip(columns, _SHOWN, strict=True)], schema=_SHOWN
    )


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
                f"expected {path.name} to hold {field.name} as {table[field.name].type}, found {field.type} "
                f"({error}); write it anew with `nextbest import`"
            ) from error
    return pa.table(columns, schema=schema)
