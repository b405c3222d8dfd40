"""``nextbest import`` and ``nextbest validate``: data into the tables of the contract, and what they hold.

The commands parse, call ``feature_repo`` and print; errors are raised, and told by the application in one
sentence. Deliberately absent: any decision about data.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from feature_repo.checks_form import Finding, Status
from feature_repo.errors import ConfigError
from feature_repo.importers import IMPORTERS, ImportReport, SourcesReport, import_tables
from feature_repo.importers.report import REJECTED, REPORT
from feature_repo.quality import inspect
from feature_repo.quality_store import FOLDER, load_profile, store_profile
from training.cli.account import print_account

__all__ = ["import_command", "register", "validate_command"]

_STYLES: dict[Status, str] = {"PASS": "green", "WARN": "yellow", "FAIL": "bold red"}


def register(app: typer.Typer) -> None:
    """Add the commands of this file to the application."""
    app.command("import")(import_command)
    app.command("validate")(validate_command)


def import_command(
    name: Annotated[str, typer.Argument(metavar="FORMAT", help=f"One of {', '.join(IMPORTERS)}.")],
    source: Annotated[
        Path,
        typer.Argument(help="The file or folder to read; for sources, the TOML map.", show_default=False),
    ],
    to: Annotated[
        Path, typer.Option("--to", metavar="TABLES", help="Directory of the tables.", show_default=False)
    ],
    column: Annotated[
        list[str] | None,
        typer.Option("--map", metavar="OURS=THEIRS", help="Our column = the column of the source."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Turn files into tables, with an account of every line."""
    report = import_tables(name, source, to, column_map=parse_map(column or ()))
    if as_json:
        typer.echo(json.dumps(report.to_dict(), ensure_ascii=False, default=str))
    elif isinstance(report, SourcesReport):
        print_account(report, to)
    else:
        _print_report(report, to)


def validate_command(
    tables: Annotated[
        Path, typer.Argument(metavar="TABLES", help="Directory of the tables.", show_default=False)
    ],
    against: Annotated[
        Path | None,
        typer.Option(
            metavar="OTHER", help="Compare with these tables or this profile, not with the last run."
        ),
    ] = None,
    store: Annotated[
        bool, typer.Option("--store/--no-store", help="Keep a profile of this run in TABLES/.quality.")
    ] = True,
    report: Annotated[
        bool, typer.Option("--report", help="Write a page to TABLES/.quality/report.html.")
    ] = False,
    report_to: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Write the page there.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Check tables against the input contract and the last run: one line a check, exit code 2 if one fails."""
    earlier = None if against is None else load_profile(against)
    inspection = inspect(tables, now=datetime.now(UTC), against=earlier)
    validation = inspection.validation
    notes = []
    # What failed is no measure for the next run.
    if store and not validation.failed and store_profile(inspection.profile, tables) is None:
        notes.append(f"{tables} cannot be written, so the next run will not be compared with this one")
    page = None
    if report or report_to is not None:
        from eval.quality_report import write_quality_report

        target = report_to or tables / FOLDER / "report.html"
        try:
            page = write_quality_report(inspection, target)
            notes.append(f"{page} shows it")
        except OSError as error:
            notes.append(
                f"{target} cannot be written ({error.strerror}); name another place with --report-to"
            )
    if as_json:
        told = {**inspection.to_dict(), "report": None if page is None else str(page)}
        typer.echo(json.dumps(told, ensure_ascii=False, default=str))
    else:
        console = _console()
        for finding in validation.findings:
            _print_finding(console, finding)
        counts = ", ".join(f"{count} {status}" for status, count in validation.counts.items())
        console.print(Text(f"{counts} in {tables}"))
        for note in notes:
            console.print(Text(note))
    if validation.failed:
        raise typer.Exit(2)


def parse_map(entries: Sequence[str]) -> dict[str, str]:
    """Return the column map of ``--map ours=theirs`` entries; ConfigError if one is not of that form."""
    column_map: dict[str, str] = {}
    for entry in entries:
        ours, sign, theirs = (part.strip() for part in entry.partition("="))
        if not (ours and sign and theirs):
            raise ConfigError(
                f"expected --map OURS=THEIRS, found {entry!r}; write for instance customer_id=user"
            )
        if ours in column_map:
            raise ConfigError(
                f"expected --map {ours}=… once, found {column_map[ours]} and {theirs}; keep one"
            )
        column_map[ours] = theirs
    return column_map


def _console() -> Console:
    return Console(soft_wrap=True, highlight=False)


def _print_finding(console: Console, finding: Finding) -> None:
    line = Text.assemble(
        (finding.status, _STYLES[finding.status]),
        f"  {finding.table}: {finding.check}",
        (f"  {finding.count:,} of {finding.total:,}" if finding.total else "", "dim"),
    )
    if finding.count or finding.status != "PASS" or not finding.total:
        line.append(f"  {finding.message}")
    console.print(line)
    for example in finding.examples:
        values = ", ".join(
            f"{name}={'(empty)' if value is None else value}" for name, value in example.items()
        )
        console.print(Text(f"      {values}", style="dim"))


def _print_report(report: ImportReport, directory: Path) -> None:
    console = _console()
    written = ", ".join(f"{rows:,} {name}" for name, rows in report.rows_written.items())
    console.print(
        Text(f"{report.rows_read:,} lines of {report.source} → {written}; {report.rows_dropped:,} left out")
    )
    for step in report.steps:
        style = "yellow" if step.dropped and step.count else "dim"
        console.print(Text.assemble((f"{step.count:>11,}", style), f"  {step.kind}: {step.done}"))
    console.print(Text(f"{directory / REPORT} has the account, {directory / REJECTED} the lines left out"))
