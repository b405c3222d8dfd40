"""Importers: files as others have them, turned into the tables of the input contract.

An importer is a function of a source, a directory and a column map that writes the tables and returns an
account in which every line of the source is found again. ``IMPORTERS`` is the list of formats; adding one
is a module and a line here. Deliberately absent: network access. A source is a file that is already there.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from feature_repo.errors import ConfigError
from feature_repo.importers.interactions import import_interactions
from feature_repo.importers.invoice_lines import import_invoice_lines
from feature_repo.importers.movielens import import_movielens
from feature_repo.importers.online_retail import import_online_retail
from feature_repo.importers.report import ImportReport, Step
from feature_repo.importers.sources import import_sources
from feature_repo.importers.sources.account import SourcesReport

__all__ = ["IMPORTERS", "ImportReport", "Importer", "SourcesReport", "Step", "import_tables"]

Importer = Callable[..., ImportReport | SourcesReport]

IMPORTERS: Final[dict[str, Importer]] = {
    "interactions": import_interactions,
    "online-retail": import_online_retail,
    "invoice-lines": import_invoice_lines,
    "movielens": import_movielens,
    "sources": import_sources,
}


def import_tables(
    name: str, source: str | Path, directory: str | Path, *, column_map: Mapping[str, str] | None = None
) -> ImportReport | SourcesReport:
    """Import ``source``, which is in the format ``name``, into ``directory``.

    Raises
    ------
    ConfigError
        There is no such format, or the column map does not fit.
    DataError
        The source breaks its format.
    """
    if name not in IMPORTERS:
        near = difflib.get_close_matches(name, IMPORTERS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(f"expected a format among {', '.join(IMPORTERS)}, found {name!r}{hint}")
    return IMPORTERS[name](source, directory, column_map=column_map)
