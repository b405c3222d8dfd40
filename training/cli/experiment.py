"""``nextbest experiment``: which variant is better, and whether that can be trusted."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import typer

from eval.experiment import customers as c
from eval.experiment.comparison import CLICKS, CONVERSION, PER_EXPOSURE, VALUE
from eval.experiment.guardrails import margins
from eval.experiment.looks import EXPECTED
from eval.experiment.page import write_experiment
from eval.experiment.reading import Asked, read
from feature_repo import schema as s
from feature_repo.tables import Tables
from serving.errors import ConfigError, DataError
from serving.events import EXPOSURES
from serving.settings import Settings
from training.cli.features import instant
from training.cli.progress import shown
from training.refresh_runs import Runs


class Metric(StrEnum):
    """What decides."""

    CONVERSION = CONVERSION
    VALUE = VALUE
    CLICKS = CLICKS
    PER_EXPOSURE = PER_EXPOSURE


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("experiment")(experiment_command)


def experiment_command(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The experiment, as the exposures call it.")],
    shares: Annotated[
        str, typer.Option(metavar="V=S,…", help="Planned shares, such as control=0.5,treatment=0.5.")
    ],
    tables: Annotated[
        Path | None,
        typer.Option(
            metavar="TABLES",
            help="Directory of the tables, with exposures.parquet; default: that of the last refresh.",
        ),
    ] = None,
    control: Annotated[
        str | None, typer.Option(metavar="VARIANT", help="[default: the first of the shares]")
    ] = None,
    metric: Annotated[Metric, typer.Option(help="What decides.")] = Metric.CONVERSION,
    window: Annotated[int, typer.Option(min=1, metavar="DAYS", help="From a first exposure on.")] = 14,
    past: Annotated[
        int, typer.Option(min=1, metavar="DAYS", help="Of the customers' own past, for narrower intervals.")
    ] = 56,
    smallest: Annotated[
        float, typer.Option(metavar="SHARE", help="The relative gain that is worth finding.")
    ] = 0.05,
    confidence: Annotated[float, typer.Option(help="Of the intervals.")] = 0.95,
    power: Annotated[float, typer.Option(help="Chance to find that gain where it is there.")] = 0.8,
    expected: Annotated[
        int,
        typer.Option(min=2, metavar="N", help="Customers planned for; intervals are narrowest near so many."),
    ] = EXPECTED,
    final: Annotated[
        bool, typer.Option("--final", help="This is the planned end, looked at once: narrower intervals.")
    ] = False,
    margin: Annotated[
        list[str] | None,
        typer.Option(
            metavar="GUARDRAIL=SHARE",
            help="Largest harm put up with: returns, coverage, latency; repeatable.",
        ),
    ] = None,
    immature: Annotated[
        bool, typer.Option("--immature", help="Keep customers whose window is not over.")
    ] = False,
    as_of: Annotated[
        str | None, typer.Option(metavar="T", help="Read as it was known then, ISO 8601; default: all data.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print experiment.json.")] = False,
) -> None:
    """Read an experiment: shares first, then effects, guardrails, groups and a verdict; exit 2 if not to be trusted.

    Settle shares, metric and smallest gain before you look. `nextbest events export --to TABLES` brings the data.
    """
    settings = Settings.load()
    asked = Asked(
        shares=pairs(shares, "--shares"),
        control=control,
        metric=metric.value,
        smallest=smallest,
        confidence=confidence,
        power=power,
        final=final,
        expected=expected,
        margins=margins(
            {name: share for text in margin or () for name, share in pairs(text, "--margin").items()}
        ),
    )
    directory = tables or _remembered(settings)
    exposures = exposures_of(directory, name)
    with shown(quiet=as_json) as progress, Tables.open(directory) as opened:
        progress("reading the tables", 0, 2)
        interactions = opened.frame(s.INTERACTIONS, [s.CUSTOMER_ID, s.AT, s.KIND, s.VALUE])
        attributes = _attributes(opened)
        now = _known_until(exposures, interactions, as_of)
        progress("joining exposures and outcomes", 1, 2)
        enrolled = c.enrol(
            exposures, interactions, name, now=now, window_days=window, past_days=past, immature=immature
        )
        reading = read(
            enrolled,
            exposures,
            asked,
            name=name,
            now=now,
            window_days=window,
            past_days=past,
            immature=immature,
            attributes=attributes,
        )
    slug = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-") or "experiment"
    folder = settings.reports / f"experiment-{slug}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    reading.write(folder)
    report = write_experiment(reading, folder)
    if as_json:
        typer.echo(reading.model_dump_json())
    else:
        for sentence in (reading.verdict.sentence, *reading.verdict.reasons):
            typer.echo(sentence)
        typer.echo(f"report: {report}")
    if reading.shares.failed:
        raise typer.Exit(2)


def _remembered(settings: Settings) -> Path:
    last = Runs(settings.refresh).remembered()
    if last is None:
        raise ConfigError(
            "expected --tables TABLES, found none given and none of a refresh in this home; name the directory"
        )
    return Path(last.tables)


def pairs(text: str, option: str) -> dict[str, float]:
    """Parse ``a=0.5,b=0.5``.

    Raises
    ------
    ConfigError
        It is no such list, or names something twice.
    """
    found: dict[str, float] = {}
    for part in text.split(","):
        name, _, number = (word.strip() for word in part.rpartition("="))
        try:
            value = float(number)
        except ValueError:
            value = float("nan")
        if not name or name in found or value != value:
            raise ConfigError(
                f"expected names and numbers such as a=0.5,b=0.5, found {text!r}; correct {option}"
            )
        found[name] = value
    return found


def exposures_of(tables: Path, name: str) -> pd.DataFrame:
    """Return the exposures of an experiment; without any, those of the others by name only.

    Raises
    ------
    DataError
        There is no readable ``exposures.parquet`` with the columns that the export writes.
    """
    path = tables / f"{EXPOSURES.name}.parquet"
    if not path.is_file():
        raise DataError(
            f"expected {path.name} in {tables}, found none; write it with `nextbest events export --to {tables}`"
        )
    try:
        there = pq.read_schema(path).names
        if missing := [column for column in c.EXPOSED if column not in there]:
            raise DataError(
                f"expected the columns {', '.join(c.EXPOSED)} in {path}, found no {', '.join(missing)}; "
                "write it anew with `nextbest events export`"
            )
        columns = [*c.EXPOSED, *(column for column in (c.LATENCY, c.FORCED) if column in there)]
        rows: pd.DataFrame = pq.read_table(
            path, columns=columns, filters=[(c.EXPERIMENT, "=", name)]
        ).to_pandas()
        if rows.empty:
            rows = pq.read_table(path, columns=columns).to_pandas().drop_duplicates(c.EXPERIMENT)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"expected a Parquet file at {path}, found: {error}; restore it") from error
    rows[s.AT] = pd.to_datetime(rows[s.AT], utc=True)
    if c.FORCED in rows:  # a tester asked for the variant: nobody was assigned to it
        rows = rows[~rows[c.FORCED].fillna(False).astype(bool)]
    return rows


def _attributes(tables: Tables) -> pd.DataFrame | None:
    if not tables.has(s.CUSTOMERS):
        return None
    named = [name for name, dtype in tables.attributes(s.CUSTOMERS).items() if dtype in ("string", "bool")]
    return tables.frame(s.CUSTOMERS, [s.CUSTOMER_ID, *named])


def _known_until(exposures: pd.DataFrame, interactions: pd.DataFrame, as_of: str | None) -> pd.Timestamp:
    """Return until when the data are known: the last instant in them, but not one that is still to come."""
    if as_of is not None:
        return pd.Timestamp(instant(as_of))
    last: pd.Timestamp = max(frame[s.AT].max() for frame in (exposures, interactions) if len(frame))
    return min(last, pd.Timestamp(datetime.now(UTC)))
