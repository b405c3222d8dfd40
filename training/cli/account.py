"""The account of an import of many sources, as tables for a terminal.

Sources first (every row of each), then fields (who gave them, who was overruled), then what was rejected and why, and
what goes without an input that is not there. Deliberately absent: numbers that are not in the report.
"""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from feature_repo.importers.report import REJECTED, REPORT
from feature_repo.importers.sources.account import SHEET, FieldAccount, SourceAccount, SourcesReport
from feature_repo.importers.sources.left_out import CONFLICTS
from training.cli.tables import console

__all__ = ["print_account"]

_FIELDS_SHOWN = 3


def print_account(report: SourcesReport, directory: Path) -> None:
    """Print a report of ``nextbest import sources``."""
    out = console()
    written = ", ".join(f"{rows:,} {table}" for table, rows in report.rows_written.items())
    out.print(
        Text(f"{report.rows_read:,} rows of {len(report.sources)} sources in {report.source} → {written}")
    )
    out.print(_sources(report.sources))
    out.print(_fields(report.fields))
    _print_reasons(out, report)
    for step in report.steps:
        if step.count:
            out.print(Text(f"{step.count:>11,}  {step.kind}: {step.done}", style="dim"))
    if report.needs:
        out.print(Text("Not there, and what goes without it", style="bold"))
        for need in report.needs:
            name = need.table if need.field is None else f"{need.table}.{need.field}"
            out.print(Text(f"    {name}: {need.without}"))
    out.print(
        Text(
            f"{directory / REPORT} has the account, {SHEET} the fields for a spreadsheet, {REJECTED} "
            "every row left out, "
            f"{CONFLICTS} every value overruled"
        )
    )


def _sources(sources: tuple[SourceAccount, ...]) -> Table:
    table = Table(
        title="Sources: every row is written, merged, a duplicate or rejected", title_justify="left"
    )
    wide = any(source.records != source.rows_read for source in sources)
    for name in ("source", "table"):
        table.add_column(name)
    numbers = ["read", *(["records"] if wide else []), "written", "merged", "duplicates", "rejected"]
    for name in [*numbers, *(["empty cells"] if wide else []), "values rejected"]:
        table.add_column(name, justify="right")
    for source in sources:
        counts = [source.rows_read, *([source.records] if wide else [])]
        counts += [source.written, source.merged, source.duplicates, source.rejected]
        counts += [*([source.empty_cells] if wide else []), source.values_rejected]
        table.add_row(Text(source.name), source.table, *(f"{count:,}" for count in counts))
    return table


def _fields(fields: tuple[FieldAccount, ...]) -> Table:
    table = Table(title="Fields: where their values come from", title_justify="left")
    table.add_column("field")
    table.add_column("filled", justify="right")
    table.add_column("from")
    table.add_column("rejected", justify="right")
    table.add_column("conflicts", justify="right")
    table.add_column("who prevailed")
    last = None
    for field in fields:
        if last not in (None, field.table):
            table.add_section()
        last = field.table
        table.add_row(
            Text(f"{field.table}.{field.field}"),
            f"{field.share:.1%}",
            Text(", ".join(f"{name} {count:,}" for name, count in field.origins.items())),
            f"{sum(reason.count for reason in field.rejected):,}",
            f"{field.conflicts:,}",
            Text(", ".join(f"{who} {count:,}" for who, count in (field.won or {}).items())),
        )
    return table


def _print_reasons(out: Console, report: SourcesReport) -> None:
    for source in report.sources:
        for what, reasons in (("rejected", source.reasons), ("value rejected", source.values)):
            for reason in reasons:
                values = f": {', '.join(reason.values)}" if reason.values else ""
                line = Text.assemble(
                    (f"{reason.count:>11,}", "yellow"), f"  {source.name} {what}: {reason.reason}{values}"
                )
                line.append(f" (first: {reason.file} row {reason.row})", style="dim")
                out.print(line)
        for note in source.notes:
            out.print(Text(f"{note.count:>11,}  {source.name}: {note.kind}: {note.done}", style="dim"))
        if source.unused_columns:
            unused = ", ".join(source.unused_columns)
            out.print(
                Text(
                    f"{len(source.unused_columns):>11,}  {source.name}: columns not used: {unused}",
                    style="dim",
                )
            )
    for field in report.fields:
        for example in field.examples[:_FIELDS_SHOWN]:
            out.print(
                Text(
                    f"   conflict  {field.table}.{field.field} {example.key}: {example.kept} ({example.kept_source}, "
                    f"{example.kept_file} row {example.kept_row}) over {example.other} ({example.other_source}, "
                    f"{example.other_file} row {example.other_row})"
                )
            )
