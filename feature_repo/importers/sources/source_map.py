"""The map of an import: which files feed which tables, and how each column is to be read.

A TOML file, because it is written by hand and reviewed like code. Every key is checked: one that is not known
is an error that names the nearest known one, since a misspelt key would otherwise change the data in silence.
Reading and checking a map is ``load``'s. Deliberately absent: expressions. A map declares; what needs computing is
computed before the import.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from datetime import date, datetime, time
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from feature_repo.schema import (
    AT,
    CUSTOMER_ID,
    INTERACTIONS,
    MEASURES,
    NAME,
    OTHER_ID,
    TIES,
    VALID_FROM,
    DType,
    Table,
)

__all__ = [
    "EPOCHS",
    "Cell",
    "Crosswalk",
    "FileShape",
    "Id",
    "SourceFile",
    "SourceMap",
    "key_of",
    "nearest",
]

#: Names for a time format that strptime has no letter for → microseconds of one unit and its day zero.
EPOCHS: Final = {"epoch_s": 1e6, "epoch_ms": 1e3, "epoch_us": 1.0}

TYPES: Final[dict[str, DType]] = {"text": "string", "number": "float", "time": "timestamp", "bool": "bool"}


def _one_or_more(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _as_text(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    return str(value) if isinstance(value, int | float) else value


def _as_cell(value: Any) -> Any:
    return {"column": value} if isinstance(value, str | list) else value


Texts = Annotated[list[str], BeforeValidator(_one_or_more)]
Scalar = Annotated[str, BeforeValidator(_as_text)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FileShape(_Part):
    """How the bytes of a file become rows of text."""

    format: Literal["csv", "parquet", "jsonl"] | None = None
    encoding: str | None = None
    undecodable: Literal["stop", "reject"] = "stop"
    delimiter: str | None = Field(None, min_length=1, max_length=4)
    quote: str = Field('"', max_length=1)
    header: bool | list[str] = True
    skip: int = Field(0, ge=0)


class Id(_Part):
    """Normalisers of an id or a text, applied in the order of these fields; blanks at the ends always go."""

    strip: str = ""
    whole: bool = False
    upper: bool = False
    lower: bool = False
    zero_pad: int = Field(0, ge=0, le=64)
    prefix: str = ""


class Cell(Id):
    """Where the values of one of our columns come from, and how they are read.

    Attributes
    ----------
    column
        Column of the source; several are joined with ``join`` (a date and a time, say).
    constant
        The same value in every row, instead of a column.
    type
        For attributes: text, number, time or bool; found out from the values if not given.
    format
        Times: strptime formats tried in turn, ``iso``, ``epoch_s``, ``epoch_ms`` or ``epoch_us``.
    time_zone
        IANA zone of times without an offset.
    decimal, thousands
        Signs in numbers. A number not written with them is unreadable, never guessed.
    factor
        The number is multiplied by this (0.01 for cents).
    currency, currency_column
        The number is multiplied by the rate of this currency, or of the one named in the column.
    values
        Their value → ours. One that is not in it is rejected, unless there is a ``default``.
    default
        Value for an empty cell and for one not in ``values``.
    crosswalk
        Id through this crosswalk; ``unknown`` ids are rejected, kept as they are, or emptied.
    unreadable
        ``row``: such a row is rejected; ``value``: the value is, and the row stays with an empty one.
    """

    column: Texts | None = None
    join: str = " "
    constant: Scalar | None = None
    type: Literal["text", "number", "time", "bool"] | None = None
    format: Texts | None = None
    time_zone: str | None = None
    decimal: Literal[".", ","] | None = None
    thousands: str | None = Field(None, max_length=1)
    factor: float | None = Field(None, allow_inf_nan=False)
    currency: str | None = None
    currency_column: str | None = None
    values: dict[str, Scalar] | None = Field(None, min_length=1)
    default: Scalar | None = None
    crosswalk: str | None = None
    unknown: Literal["reject", "keep", "empty"] = "reject"
    unreadable: Literal["row", "value"] | None = None


Cells = dict[str, Annotated[Cell, BeforeValidator(_as_cell)]]


class Defaults(_Part):
    """What holds for every source that does not say otherwise."""

    encoding: str = "utf-8"
    delimiter: str | None = Field(None, min_length=1, max_length=4)
    time_zone: str = "UTC"
    time_format: Texts = ["iso"]
    decimal: Literal[".", ","] = "."
    thousands: str | None = Field(None, max_length=1)
    empty: Texts = []


class SourceFile(FileShape):
    """One source: a file, or several of one shape, that feed one table."""

    file: Texts = Field(min_length=1)
    table: str
    columns: Cells = Field(default_factory=dict)
    attributes: Annotated[list[str], BeforeValidator(_one_or_more)] = []
    wide: Cells = Field(default_factory=dict)
    time_zone: str | None = None
    time_format: Texts | None = None
    decimal: Literal[".", ","] | None = None
    thousands: str | None = Field(None, max_length=1)
    empty: Texts | None = None


class Crosswalk(FileShape, Id):
    """A file that says which of our ids an id of theirs is; many of theirs may be one of ours."""

    file: str
    of: str = Field(alias="from")
    to: str


class TableRules(_Part):
    """How the sources of one table are merged."""

    precedence: list[str] = []
    fields: dict[str, list[str]] = Field(default_factory=dict)
    key: Texts = []


class SourceMap(_Part):
    """The whole map; ``path`` is where it was read from."""

    path: Path
    defaults: Defaults = Defaults()
    sources: dict[str, SourceFile] = Field(min_length=1)
    crosswalks: dict[str, Crosswalk] = Field(default_factory=dict)
    currencies: dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]] = Field(default_factory=dict)
    tables: dict[str, TableRules] = Field(default_factory=dict)

    def feeding(self, table: str) -> dict[str, SourceFile]:
        """Return the sources of a table, in the order of the map."""
        return {name: source for name, source in self.sources.items() if source.table == table}

    def order(self, table: str, field: str | None = None) -> list[str]:
        """Return the sources of a table, the one that prevails (in one field) first."""
        rules = self.tables.get(table, TableRules())
        first = rules.fields.get(field or "", []) + rules.precedence
        return list(dict.fromkeys([*first, *self.feeding(table)]))


def key_of(spec: Table, rules: SourceMap) -> list[str]:
    """Return the columns by which rows of a table are the same thing; none for a log without declared key."""
    declared = rules.tables.get(spec.name, TableRules()).key
    if spec.name == INTERACTIONS:
        return declared
    last = {MEASURES: [CUSTOMER_ID, AT, NAME], TIES: [CUSTOMER_ID, OTHER_ID, AT]}.get(spec.name)
    if last is not None:
        return last
    key = [column.name for column in spec.columns if column.required and column.dtype == "string"]
    if VALID_FROM in spec.names and any(
        VALID_FROM in source.columns for source in rules.feeding(spec.name).values()
    ):
        key.append(VALID_FROM)
    return [*key, AT] if AT in spec.names else key


def nearest(name: str, known: Iterable[str]) -> str:
    """Return "did you mean X?", or all that is known where nothing is near."""
    names = list(known)
    lower = {candidate.lower(): candidate for candidate in names}
    near = difflib.get_close_matches(name.lower(), lower, n=1, cutoff=0.5)
    if near:
        return f"did you mean {lower[near[0]]}?"
    return f"there are {', '.join(names[:30])}" if names else "there are none"
