"""``nextbest experiment``: which variant is better, and whether that can be trusted."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from eval.experiment import customers as c
from eval.experiment.comparison import CLICKS, CONVERSION, METRICS
from eval.experiment.counterfactual import AskedCounterfactual
from eval.experiment.credits import HOURS
from eval.experiment.guardrails import margins
from eval.experiment.interleaving import (
    ALSO,
    EXPECTED_TO_SAY,
    AskedInterleaving,
    is_interleaved,
    read_interleaving,
)
from eval.experiment.looks import EXPECTED
from eval.experiment.pages import AnyReading, write_reading
from eval.experiment.reading import Asked, read
from eval.report.index import write_index
from feature_repo import schema as s
from feature_repo.tables import Tables
from serving.errors import ConfigError
from serving.experiments_file import LIVE
from serving.settings import Settings
from training.cli.experiment_counterfactual import rules_of, value
from training.cli.experiment_data import (
    attributes_of,
    exposures_of,
    interactions_of,
    known_until,
    pairs,
    plan_of,
    tables_of,
    teams_of,
)
from training.cli.experiment_options import LOGGED, MIXED, SPLIT, refuse_misplaced
from training.cli.features import instant
from training.cli.progress import shown


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("experiment")(experiment_command)


def experiment_command(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The experiment, as the exposures call it.")],
    shares: Annotated[
        str | None,
        typer.Option(
            metavar="V=S,…",
            help="Planned shares, such as control=0.5,treatment=0.5; default: those of experiments.toml.",
        ),
    ] = None,
    tables: Annotated[
        Path | None,
        typer.Option(
            metavar="TABLES",
            help="Directory of the tables, with exposures.parquet; default: that of the last refresh.",
        ),
    ] = None,
    control: Annotated[
        str | None,
        typer.Option(
            metavar="VARIANT",
            help="Default: the first of the shares. With --counterfactual: value by its answers only.",
        ),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(
            metavar="METRIC",
            help=f"What decides: {', '.join(METRICS)}; default: conversion, clicks where interleaved or "
            "--counterfactual.",
        ),
    ] = None,
    window: Annotated[
        int,
        typer.Option(min=1, metavar="DAYS", help="From a first exposure on; where interleaved, from each."),
    ] = 14,
    past: Annotated[
        int, typer.Option(min=1, metavar="DAYS", help="Of the customers' own past, for narrower intervals.")
    ] = 56,
    smallest: Annotated[
        float,
        typer.Option(
            metavar="SHARE",
            help="The relative gain that is worth finding; where interleaved, how far from half (0.05: 55 of 100).",
        ),
    ] = 0.05,
    confidence: Annotated[float, typer.Option(help="Of the intervals.")] = 0.95,
    power: Annotated[float, typer.Option(help="Chance to find that gain where it is there.")] = 0.8,
    expected: Annotated[
        int | None,
        typer.Option(
            min=2,
            metavar="N",
            help="Customers planned for; intervals are narrowest near so many; "
            f"default: {EXPECTED}, where interleaved {EXPECTED_TO_SAY} who click.",
        ),
    ] = None,
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
    since: Annotated[
        str | None,
        typer.Option(
            metavar="T",
            help="Read exposures from the last change of shares on, ISO 8601; default: from the first.",
        ),
    ] = None,
    hours: Annotated[
        float,
        typer.Option(
            metavar="HOURS",
            help="Where interleaved: how long ago an answer may be that a purchase without request_id is credited to.",
        ),
    ] = HOURS,
    counterfactual: Annotated[
        str | None,
        typer.Option(
            metavar="BUNDLE",
            help="What this bundle would have earned where chance decided; NAME live: outside experiments.",
        ),
    ] = None,
    rules: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="With --counterfactual: the rules that were shown by; repeatable; default: all of the home.",
        ),
    ] = None,
    clip: Annotated[
        float | None, typer.Option(metavar="WEIGHT", help="With --counterfactual: bound weights.")
    ] = None,
    as_of: Annotated[
        str | None, typer.Option(metavar="T", help="Read as it was known then, ISO 8601; default: all data.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print experiment.json.")] = False,
) -> None:
    """Read an experiment: shares first, then effects, guardrails, groups and a verdict; exit 2 if not to be trusted.

    Settle shares, metric and smallest gain before you look. `nextbest events export --to TABLES` brings the data. The
    name `holdout` reads those who are held out of all experiments beside everybody else.
    """
    settings = Settings.load()
    directory = tables or tables_of(settings)
    if counterfactual is not None:
        refuse_misplaced(context, name, LOGGED)
        chosen = AskedCounterfactual(
            bundle=counterfactual,
            metric=metric or CLICKS,
            confidence=confidence,
            clip=clip,
            hours=hours,
            variant=control,
        )
        with shown(quiet=as_json) as progress:
            valued = value(
                settings,
                directory,
                name,
                chosen,
                rules=rules or rules_of(settings),
                window_days=window,
                immature=immature,
                as_of=as_of,
                progress=progress,
            )
        tell(settings, valued, as_json=as_json)
        return
    if name == LIVE:
        raise ConfigError(
            f"expected --counterfactual BUNDLE with {LIVE}, which stands for answers outside experiments, found none; "
            "name the bundle to value, or an experiment"
        )
    exposures = exposures_of(directory, name, also=ALSO)
    mixed = is_interleaved(exposures, name)
    there = (exposures[c.EXPERIMENT] == name).any()
    refuse_misplaced(context, name, MIXED if mixed else SPLIT if there else None)
    start = None if since is None else pd.Timestamp(instant(since, "--since"))
    made_at = datetime.now(UTC)
    reading: AnyReading
    with shown(quiet=as_json) as progress, Tables.open(directory) as opened:
        if mixed:
            teams = teams_of(settings, name, exposures, control)
            question = AskedInterleaving(
                *teams,
                metric=metric or CLICKS,
                smallest=smallest,
                confidence=confidence,
                power=power,
                final=final,
                expected=expected or EXPECTED_TO_SAY,
                hours=hours,
            )
            progress("reading the tables", 0, 2)
            interactions = interactions_of(opened)
            now = known_until(exposures, interactions, as_of)
            progress("joining answers and outcomes", 1, 2)
            reading = read_interleaving(
                exposures, interactions, question, name=name, now=now, window_days=window, made_at=made_at
            )
        else:
            plan = plan_of(settings, name, shares)
            asked = Asked(
                shares=plan.shares,
                control=control,
                metric=metric or CONVERSION,
                smallest=smallest,
                confidence=confidence,
                power=power,
                final=final,
                expected=expected or EXPECTED,
                margins=margins(
                    {key: share for text in margin or () for key, share in pairs(text, "--margin").items()}
                ),
                held_out=plan.held_out,
                shadows=plan.shadows,
            )
            progress("reading the tables", 0, 2)
            interactions = opened.frame(s.INTERACTIONS, [s.CUSTOMER_ID, s.AT, s.KIND, s.VALUE])
            now = known_until(exposures, interactions, as_of)
            progress("joining exposures and outcomes", 1, 2)
            enrolled = c.enrol(
                exposures,
                interactions,
                name,
                now=now,
                window_days=window,
                past_days=past,
                immature=immature,
                since=start,
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
                since=start,
                attributes=attributes_of(opened),
                made_at=made_at,
            )
    tell(settings, reading, as_json=as_json)


def tell(settings: Settings, reading: AnyReading, *, as_json: bool) -> None:
    """Write and print a reading; exit 2 where it is not to be trusted."""
    slug = re.sub(r"[^A-Za-z0-9._-]+", "-", reading.setting.experiment).strip(".-") or "experiment"
    folder = settings.reports / f"experiment-{slug}-{reading.made_at:%Y%m%d-%H%M%S}"
    reading.write(folder)
    report = write_reading(reading, folder)
    index = write_index(settings.reports)
    if as_json:
        typer.echo(reading.model_dump_json())
    else:
        for sentence in (reading.verdict.sentence, *reading.verdict.reasons):
            typer.echo(sentence)
        typer.echo(f"all reports: {index}\nreport: {report}")
    if reading.verdict.decision == "distrust":
        raise typer.Exit(2)
