"""What an experiment is read from: exposures as exported, the shop's tables, and what the experiments' file plans."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from eval.experiment import customers as c
from eval.experiment.interleaving import TEAM
from eval.experiment.planned import Planned, beside_the_holdout, planned
from feature_repo import schema as s
from feature_repo.tables import Tables
from serving.errors import ConfigError, DataError
from serving.events import EXPOSURES
from serving.experiments_file import HOLDOUT, Experiments
from serving.settings import Settings
from training.cli.features import instant
from training.refresh_runs import Runs


def tables_of(settings: Settings) -> Path:
    """Return the directory of the last refresh; ConfigError where there was none."""
    last = Runs(settings.refresh).remembered()
    if last is None:
        raise ConfigError(
            "expected --tables TABLES, found none given and none of a refresh in this home; name the directory"
        )
    return Path(last.tables)


#: Shares that were rounded, such as three of 0.33, may miss 1 by so much.
_ROUNDED: Final = 0.015


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


def exposures_of(tables: Path, name: str, *, also: Sequence[str] = (), live: bool = False) -> pd.DataFrame:
    """Return the exposures of an experiment; without any, those of the others by name only.

    Those of the holdout come beside everybody else's. What a tester asked for by name is left out: nobody was assigned
    to it.

    Parameters
    ----------
    tables
        Where ``exposures.parquet`` lies.
    name
        The experiment.
    also
        Further columns, read where they are there.
    live
        Take those of no experiment instead.

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
        columns = [*c.EXPOSED, *(column for column in (c.LATENCY, c.FORCED, *also) if column in there)]
        field = pc.field(c.EXPERIMENT)
        own = None if name == HOLDOUT else field.is_null() if live else field == name
        rows: pd.DataFrame = pq.read_table(path, columns=columns, filters=own).to_pandas()
        if rows.empty and not live:
            rows = pq.read_table(path, columns=columns).to_pandas().drop_duplicates(c.EXPERIMENT)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"expected a Parquet file at {path}, found: {error}; restore it") from error
    rows[s.AT] = pd.to_datetime(rows[s.AT], utc=True)
    if c.FORCED in rows:
        rows = rows[~rows[c.FORCED].fillna(False).astype(bool)]
    return beside_the_holdout(rows) if name == HOLDOUT and (rows[c.EXPERIMENT] == HOLDOUT).any() else rows


def plan_of(settings: Settings, name: str, shares: str | None) -> Planned:
    """Return the shares that were typed, else what the experiments' file plans.

    Raises
    ------
    ConfigError
        Neither says anything of the experiment, or the file has nothing in it to compare.
    """
    path = settings.experiments
    told = planned(Experiments.read(path), name)
    if shares is not None:
        typed = pairs(shares, "--shares")
        are_weights = all(share >= 1 and share.is_integer() for share in typed.values())
        if not are_weights and abs(sum(typed.values()) - 1.0) > _ROUNDED:
            raise ConfigError(
                f"expected --shares that add up to 1, or whole weights such as control=1,treatment=1, found "
                f"{shares!r}, which add up to {sum(typed.values()):g}; correct them"
            )
        return replace(told or Planned(), shares=typed)
    if told is None:
        raise ConfigError(
            f"expected --shares V=S,… or the experiment {name!r} in {path}, found neither; write the shares that were "
            "planned, the control first, such as --shares control=0.5,treatment=0.5"
        )
    if len(told.shares) < 2 and not told.interleaved:
        raise ConfigError(
            f"expected two variants of {name!r} that are shown, found {', '.join(told.shares)} alone in {path}: "
            "shadows answer unseen, so there is nothing to compare; give one of them customers"
        )
    return told


def teams_of(settings: Settings, name: str, exposures: pd.DataFrame, control: str | None) -> tuple[str, str]:
    """Return the two variants of an interleaved experiment, the control first: by the file, else by the exposures.

    Raises
    ------
    ConfigError
        There are not two, or the control is none of them.
    """
    told = planned(Experiments.read(settings.experiments), name)
    if told is not None and told.interleaved:
        teams = list(told.shares)
    else:
        own = exposures[exposures[c.EXPERIMENT] == name]
        teams = (
            sorted(own[TEAM].dropna().unique(), key=lambda team: (team != "control", team))
            if TEAM in own
            else []
        )
        if control is None and "control" not in teams:
            raise ConfigError(
                f"expected --control VARIANT or the experiment {name!r} in {settings.experiments}, found neither; "
                f"say which of {', '.join(teams) or 'the two variants'} is the control"
            )
    if len(teams) != 2 or (control is not None and control not in teams):
        raise ConfigError(
            f"expected two variants of {name!r}, the control among them, found {', '.join(teams) or 'none'}"
            f"{'' if control is None else f' and --control {control}'}; correct the file or --control"
        )
    first = control or teams[0]
    return first, next(team for team in teams if team != first)


def interactions_of(tables: Tables) -> pd.DataFrame:
    """Return what customers did with which product, and in which answer they saw it."""
    return tables.frame(s.INTERACTIONS, [s.CUSTOMER_ID, s.PRODUCT_ID, s.AT, s.KIND, s.VALUE, s.REQUEST_ID])


def attributes_of(tables: Tables) -> pd.DataFrame | None:
    """Return the attributes of customers that can sort them into groups; None without customers."""
    if not tables.has(s.CUSTOMERS):
        return None
    named = [name for name, dtype in tables.attributes(s.CUSTOMERS).items() if dtype in ("string", "bool")]
    return tables.frame(s.CUSTOMERS, [s.CUSTOMER_ID, *named])


def known_until(exposures: pd.DataFrame, interactions: pd.DataFrame, as_of: str | None) -> pd.Timestamp:
    """Return until when the data are known: the last instant in them, but not one that is still to come."""
    if as_of is not None:
        return pd.Timestamp(instant(as_of))
    last: pd.Timestamp = max(frame[s.AT].max() for frame in (exposures, interactions) if len(frame))
    return min(last, pd.Timestamp(datetime.now(UTC)))
