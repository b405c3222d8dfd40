"""The slots of a log that chance decided, with what another bundle would show there.

Answers are made again by the bundles that made them, under their rules, with the customers' features as they were known
at each instant (``eval.experiment.replay``). Sessions without a customer have no features in the tables; those that had
a history do not come out again and are left out. ``eval.experiment.counterfactual`` values what is found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import pandas as pd

from eval.experiment import customers as c
from eval.experiment.counterfactual import (
    PICK,
    PLACE,
    REWARD,
    SLOTS,
    SUPPORTED,
    UNIT,
    USUAL,
    WORTH,
    AskedCounterfactual,
    LeftOut,
    weight_of_usual,
)
from eval.experiment.credits import credit
from eval.experiment.interleaving import INTERLEAVED
from eval.experiment.replay import is_chancy, replayed
from eval.experiment.shares import THRESHOLD
from feature_repo import schema as s
from feature_repo.build import Progress
from serving.errors import DataError
from serving.experiments_file import FALLBACK
from serving.features import CustomerState, FrameReader
from serving.query import under
from serving.recommender import Query
from serving.rules.apply import EXPLORE
from training.logged_bundles import Recommenders

SURFACE: Final = "surface"
SESSION: Final = "session_id"
BUNDLE: Final = "bundle"
POSITION: Final = "position"
SOURCE: Final = "source"
RULES: Final = "rules"
CONDITIONS: Final = "conditions"
#: What the exposures must have besides, and what is read where it is there.
NEEDED: Final = (BUNDLE, POSITION, SOURCE, s.PROPENSITY)
ALSO: Final = (SESSION, SURFACE, RULES, CONDITIONS, *NEEDED)
_CHUNK: Final = 2_000

#: Gives the rows of features (in order) of customers at instants (``customer_id``, ``event_timestamp``).
States = Callable[[pd.DataFrame], pd.DataFrame]


@dataclass(frozen=True)
class Logged:
    """What a log says of slots that chance decided: a frame of ``SLOTS``, what was left out, and their mean weight."""

    slots: pd.DataFrame
    left_out: LeftOut
    usual_weight: tuple[float, float]


def check_ripe(
    exposures: pd.DataFrame, asked: AskedCounterfactual, *, now: datetime, window_days: int, immature: bool
) -> None:
    """Refuse a log none of whose answers had their days, before anything is built for it; see ``logged_slots``.

    Raises
    ------
    DataError
        A column is missing, chance decided nothing, or no slot that it decided is old enough.
    """
    chancy = _chancy(_shown(exposures, asked, pd.Timestamp(now)))
    until = pd.Timestamp(now)
    if not immature and chancy[s.AT].min() + pd.Timedelta(days=window_days) > until:
        raise DataError(
            f"expected slots that chance decided whose {window_days} days are over by {now:%Y-%m-%d %H:%M} UTC, found "
            f"none of {len(chancy):,}; {c.wait_for(chancy[s.AT].min(), until, window_days)}"
        )


def logged_slots(
    exposures: pd.DataFrame,
    interactions: pd.DataFrame,
    asked: AskedCounterfactual,
    recommenders: Recommenders,
    states: States,
    *,
    now: datetime,
    window_days: int,
    immature: bool = False,
    progress: Progress | None = None,
) -> Logged:
    """Return the slots of a log that chance decided, each beside what ``asked.bundle`` would show there.

    Parameters
    ----------
    exposures : DataFrame
        What was shown: the columns of ``customers.EXPOSED`` and ``NEEDED``, those of ``ALSO`` where they are there.
    interactions : DataFrame
        See ``credits.credit``.
    asked
        The bundle, the metric.
    recommenders
        The bundles and rules.
    states
        What was known of customers.
    now, window_days, immature
        Answers whose days are not over by ``now`` are left out unless ``immature``.
    progress
        Called with (what, done, all).

    Raises
    ------
    DataError
        A column is missing, or chance decided nothing.
    """
    shown = _shown(exposures, asked, pd.Timestamp(now))
    slots = _chancy(shown)
    usual = weight_of_usual(slots[s.PROPENSITY], slots[SOURCE] != EXPLORE, slots[UNIT])
    told = [s.REQUEST_ID, UNIT, s.AT]
    if usual[1] < THRESHOLD:  # nothing of such a log is used
        return Logged(slots[told], LeftOut(), usual)
    owed = credit(shown, interactions, now=pd.Timestamp(now), window_days=window_days, hours=asked.hours)
    rows = owed.rows[owed.rows[s.REQUEST_ID].isin(slots[s.REQUEST_ID])]
    over = rows[s.AT] + pd.Timedelta(days=window_days) <= pd.Timestamp(now)
    kept = rows if immature else rows[over]
    young = int(rows.loc[~over, s.PROPENSITY].map(is_chancy).sum()) if not immature else 0
    found, gone, unrebuilt = [], 0, 0
    for part in _parts(kept, states, progress):
        for request, state in part:
            first = request.iloc[0]
            count = int(request[s.PROPENSITY].map(is_chancy).sum())
            digest = first[RULES] if RULES in request and isinstance(first[RULES], str) else None
            logged = recommenders.of(first[BUNDLE], digest)
            target = recommenders.of(asked.bundle, digest)
            if logged is None or target is None:
                gone += count
                continue
            propensities = request[s.PROPENSITY].tolist()
            made = replayed(
                logged, target, _query(first, len(request)), state,
                list(zip(request[s.PRODUCT_ID].tolist(), propensities, strict=True)),
            )  # fmt: skip
            if made is None:
                unrebuilt += count
                continue
            rewards = request[WORTH[asked.metric]].tolist()
            found += [
                (first[s.REQUEST_ID], first[UNIT], first[s.AT], one.place, one.shown, one.propensity, one.usual,
                 one.pick, one.supported, rewards[one.place])
                for one in made
            ]  # fmt: skip
    names = (s.REQUEST_ID, UNIT, s.AT, PLACE, s.PRODUCT_ID, s.PROPENSITY, USUAL, PICK, SUPPORTED, REWARD)
    frame = pd.DataFrame(found, columns=list(names))
    assert set(SLOTS) <= set(frame)
    return Logged(frame, LeftOut(gone=gone, unrebuilt=unrebuilt, immature=young), usual)


def _shown(exposures: pd.DataFrame, asked: AskedCounterfactual, now: pd.Timestamp) -> pd.DataFrame:
    """Return what was shown in answers of one list, in order of place, each with the unit that saw it."""
    if missing := [column for column in NEEDED if column not in exposures]:
        raise DataError(
            f"expected the columns {', '.join(NEEDED)} in exposures, found no {', '.join(missing)}; "
            "write the table anew with `nextbest events export`"
        )
    if exposures.empty:
        raise DataError(
            "expected exposures of that experiment, found none; correct the name (`live`: outside experiments), or run "
            "`nextbest events export` first"
        )
    rows = exposures[exposures[s.AT] <= now]
    rows = rows[~rows[c.VARIANT].isin([INTERLEAVED, FALLBACK])]
    if asked.variant is not None:
        rows = rows[rows[c.VARIANT] == asked.variant]
    rows = rows.drop_duplicates([s.REQUEST_ID, POSITION]).sort_values([s.REQUEST_ID, POSITION], kind="stable")
    session = (rows[SESSION] if SESSION in rows else pd.Series(None, index=rows.index, dtype=object)).fillna(
        rows[s.REQUEST_ID]
    )
    unit = ("c " + rows[s.CUSTOMER_ID]).fillna("s " + session)
    return rows.assign(unit=unit).reset_index(drop=True)


def _chancy(shown: pd.DataFrame) -> pd.DataFrame:
    """Return the slots that chance decided; DataError where there are none."""
    chancy = shown[s.PROPENSITY].map(is_chancy)
    if not chancy.any():
        raise DataError(
            "expected slots that chance decided (a propensity between 0 and 1), found none; let a rule explore "
            "([[explore]] in rules.toml) and export again"
        )
    return shown[chancy]


def _parts(
    rows: pd.DataFrame, states: States, progress: Progress | None
) -> Iterator[list[tuple[pd.DataFrame, CustomerState]]]:
    """Yield requests with their customers' states, some at a time."""
    requests = [request for _, request in rows.groupby(s.REQUEST_ID, sort=True)]
    for start in range(0, len(requests), _CHUNK):
        if progress is not None:
            progress("making answers again", start, len(requests))
        chunk = requests[start : start + _CHUNK]
        firsts = pd.DataFrame([request.iloc[0] for request in chunk]).reset_index(drop=True)
        known = firsts[s.CUSTOMER_ID].notna().to_numpy()
        held = _states_of(firsts[known], states) if known.any() else {}
        empty = CustomerState()
        yield [(request, held.get(number, empty)) for number, request in enumerate(chunk)]


def _states_of(firsts: pd.DataFrame, states: States) -> Mapping[int, CustomerState]:
    keys = pd.DataFrame(
        {
            s.CUSTOMER_ID: firsts[s.CUSTOMER_ID].astype(str),
            s.EVENT_TIMESTAMP: firsts[s.AT].astype("datetime64[us, UTC]"),
        }
    ).reset_index(drop=True)
    rows = states(keys)
    # one customer may come at several instants: the reader knows them by their place
    reader = FrameReader.from_frame(rows.assign(**{s.CUSTOMER_ID: [str(i) for i in range(len(rows))]}))
    found = reader.read([str(i) for i in range(len(rows))], keys[s.EVENT_TIMESTAMP].iloc[0].to_pydatetime())
    return dict(zip(firsts.index.tolist(), found, strict=True))


def _query(first: pd.Series, n: int) -> Query:
    def text(name: str) -> str | None:
        return first[name] if name in first and isinstance(first[name], str) else None

    query = Query(
        at=first[s.AT].to_pydatetime(),
        customer_id=text(s.CUSTOMER_ID),
        session_id=text(SESSION),
        n=n,
        surface=text(SURFACE),
        request_id=first[s.REQUEST_ID],
    )
    asked = text(CONDITIONS)
    return query if asked is None else under(query, asked)
