"""An interleaved experiment, read: every answer mixed the lists of two variants; whose products do customers choose?

Two teams draft an answer in turns, each round's first pick by the toss of a coin, and a click or purchase is a credit
for the team whose pick it was (team draft: Radlinski, Kurup & Joachims, CIKM 2008). A customer prefers the variant that
gathered more credits over all their answers; ``delta`` is the mean preference, ½ for the treatment and −½ for the
control, of the customers who gave any credit (Chapelle, Joachims, Radlinski & Yue, ACM TOIS 30:1, 2012, with the
customer in the place of the query). Each customer counts once, so that what one customer's answers have in common is
in the error. Both variants are judged by the same customers in the same minutes, which is why so few are needed.

Under no preference ``delta`` has mean 0 and its variance is the mean squared preference over n; with that variance the
interval is one for a look or for every look (``looks``). Deliberately absent: how much more customers buy in all.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from eval.experiment import customers as c
from eval.experiment.comparison import CLICKS, CONVERSION, VALUE, instant_of
from eval.experiment.credits import BOUGHT, CLICKED, HOURS, PAID, ROW, Credits, credit
from eval.experiment.interleaving_results import (
    Balance,
    InterleavingCounts,
    InterleavingReading,
    InterleavingSetting,
    Preference,
    PreferenceLook,
    Team,
)
from eval.experiment.interleaving_verdict import interleaving_verdict
from eval.experiment.looks import EveryLook, Looks, OneLook
from eval.experiment.plan import days_to_go, required_customers
from eval.experiment.results import Plan
from eval.experiment.shares import THRESHOLD
from eval.significance import holm
from feature_repo import schema as s
from feature_repo.errors import ConfigError, DataError

#: What the exposures of an interleaved experiment have as variant, and the column of whose pick a product was.
INTERLEAVED: Final = "interleaved"
TEAM: Final = "team"
POSITION: Final = "position"
SESSION: Final = "session_id"
#: Columns that are read where exposures have them.
ALSO: Final = (SESSION, POSITION, TEAM)
#: Customers who click, for whom intervals are narrowest: about as many find a preference of 55 of 100.
EXPECTED_TO_SAY: Final = 2_000
#: Metric → how much each product shown is worth.
WORTH: Final = {CLICKS: CLICKED, CONVERSION: BOUGHT, VALUE: PAID}
#: More products than this share without a team, and the log is not that of a draft.
MOST_TEAMLESS: Final = 0.01
_UNIT: Final = "unit"
_FEWEST: Final = 50
_LOOKS: Final = 40


@dataclass(frozen=True)
class AskedInterleaving:
    """What is asked of an interleaved experiment; to be settled before its data are seen.

    Attributes
    ----------
    control, treatment
        The two variants.
    metric
        What decides: clicks, conversion (products bought) or value.
    smallest
        How far from half the preference is worth finding: 0.05 stands for 55 of 100 customers.
    final, expected
        As in ``reading.Asked``; ``expected`` counts customers who click or buy.
    hours
        See ``credits.credit``.
    """

    control: str
    treatment: str
    metric: str = CLICKS
    smallest: float = 0.05
    confidence: float = 0.95
    power: float = 0.8
    final: bool = False
    expected: int = EXPECTED_TO_SAY
    hours: float = HOURS

    def __post_init__(self) -> None:
        if self.metric not in WORTH:
            raise ConfigError(
                f"expected a metric of {', '.join(WORTH)} for an interleaved experiment, found {self.metric!r}; "
                "correct --metric"
            )
        for name, share in (("confidence", self.confidence), ("power", self.power)):
            if not 0 < share < 1:
                raise ConfigError(f"expected a {name} between 0 and 1, found {share}; correct it")
        if not 0 < self.smallest < 0.5:
            raise ConfigError(
                f"expected a preference above 0 and below 0.5, found {self.smallest}; 0.05 stands for 55 of 100"
            )
        if not self.hours > 0:
            raise ConfigError(f"expected hours above 0, found {self.hours:g}; 24 are usual")


def is_interleaved(exposures: pd.DataFrame, name: str) -> bool:
    """Return whether the exposures of an experiment are drafts."""
    return bool(((exposures[c.EXPERIMENT] == name) & (exposures[c.VARIANT] == INTERLEAVED)).any())


def read_interleaving(
    exposures: pd.DataFrame,
    interactions: pd.DataFrame,
    asked: AskedInterleaving,
    *,
    name: str,
    now: pd.Timestamp,
    window_days: int,
    made_at: datetime | None = None,
) -> InterleavingReading:
    """Read an interleaved experiment.

    Parameters
    ----------
    exposures : DataFrame
        A row a product shown: the columns of ``customers.EXPOSED``, ``position``, ``team``, and ``session_id`` where
        there are answers to nobody known; they are read by session.
    interactions : DataFrame
        See ``credits.credit``.
    asked
        What decides, and how.
    name, now, window_days
        As in ``reading.read``. Both variants of an answer had the same time, so nobody is left out as immature.
    made_at
        When it is read; ``now`` by default.

    Raises
    ------
    DataError
        Columns are missing, nothing was shown, or more than a hundredth of the products have no team of the two.
    """
    shown, teamless = _drafted(exposures, asked, name, now)
    balance, first_places = _balance(shown, asked)
    owed = credit(shown, interactions, now=now, window_days=window_days, hours=asked.hours)
    looks: Looks = OneLook() if asked.final else EveryLook(asked.expected, 1 - asked.confidence)
    setting = InterleavingSetting(
        experiment=name,
        control=asked.control,
        treatment=asked.treatment,
        metric=asked.metric,
        window_days=window_days,
        hours=asked.hours,
        confidence=asked.confidence,
        power=asked.power,
        smallest=asked.smallest,
        looks="one" if asked.final else "every",
        expected=asked.expected,
        now=instant_of(now),
    )
    requests = shown.drop_duplicates(s.REQUEST_ID)
    counts = InterleavingCounts(
        answers=len(requests),
        customers=int(requests[s.CUSTOMER_ID].nunique()),
        sessions=int(requests.loc[requests[s.CUSTOMER_ID].isna(), _UNIT].nunique()),
        remembered=owed.remembered,
        astray=owed.astray,
        teamless=teamless,
        first=instant_of(requests[s.AT].min()),
        last=instant_of(requests[s.AT].max()),
    )
    preferences, over_time, plan, rare = [], list[PreferenceLook](), None, []
    if not balance.failed:
        for metric in WORTH:
            found = _preference(owed.rows, asked, metric, looks)
            if found is None:
                rare.append(metric)
            else:
                preferences.append(found)
        preferences = _corrected(preferences)
        deciding = next((row for row in preferences if row.decides), None)
        if deciding is not None:
            over_time = list(_over_time(owed, asked, looks, now))
            plan = _needed(deciding, asked, looks, days=(now - requests[s.AT].min()) / pd.Timedelta(days=1))
    return InterleavingReading(
        made_at=made_at or instant_of(now),
        setting=setting,
        teams=[_team(owed.rows, variant, first_places) for variant in (asked.control, asked.treatment)],
        balance=balance,
        counts=counts,
        preferences=preferences,
        looks=over_time,
        plan=plan,
        rare=rare,
        verdict=interleaving_verdict(setting, balance, first_places, counts, preferences, plan),
    )


def _drafted(
    exposures: pd.DataFrame, asked: AskedInterleaving, name: str, now: pd.Timestamp
) -> tuple[pd.DataFrame, int]:
    """Return the products shown with a team and a unit, and how many have no team."""
    wanted = (*c.EXPOSED, POSITION, TEAM)
    if missing := [column for column in wanted if column not in exposures]:
        raise DataError(
            f"expected the columns {', '.join(wanted)} in exposures, found no {', '.join(missing)}; "
            "write the table with `nextbest events export`"
        )
    own = (exposures[c.EXPERIMENT] == name) & (exposures[c.VARIANT] == INTERLEAVED)
    shown = exposures[own & (exposures[s.AT] <= now)].drop_duplicates([s.REQUEST_ID, s.PRODUCT_ID])
    if shown.empty:
        raise DataError(
            f"expected interleaved answers of the experiment {name!r} by {now:%Y-%m-%d %H:%M} UTC, found none; correct "
            "the name, or run `nextbest events export` first"
        )
    known = shown[TEAM].isin([asked.control, asked.treatment])
    teamless = int((~known).sum())
    if teamless > MOST_TEAMLESS * len(shown):
        others = sorted({str(team) for team in shown.loc[~known, TEAM].dropna()})
        raise DataError(
            f"expected every product of {name} to be the pick of {asked.control} or {asked.treatment}, found "
            f"{', '.join(others) or 'no variant'} for {teamless:,} of {len(shown):,}; name the two variants of the "
            "draft, or see why their picks are not logged"
        )
    session = (
        shown[SESSION] if SESSION in shown else pd.Series(None, index=shown.index, dtype=object)
    ).fillna(shown[s.REQUEST_ID])
    unit = ("c " + shown[s.CUSTOMER_ID]).fillna("s " + session)
    return shown.assign(**{_UNIT: unit})[known].reset_index(drop=True), teamless


def _balance(shown: pd.DataFrame, asked: AskedInterleaving) -> tuple[Balance, dict[str, int]]:
    """Return the check that each team's pick stands first in half of the answers (binomial, exact)."""
    first = shown.sort_values(POSITION, kind="stable").drop_duplicates(s.REQUEST_ID)[TEAM]
    counts = {team: int((first == team).sum()) for team in (asked.control, asked.treatment)}
    p = float(stats.binomtest(counts[asked.treatment], len(first), 0.5).pvalue)
    return Balance(requests=len(first), p=p, threshold=THRESHOLD, failed=p < THRESHOLD), counts


def _team(rows: pd.DataFrame, variant: str, first_places: dict[str, int]) -> Team:
    own = rows[rows[TEAM] == variant]
    return Team(
        variant=variant,
        first_places=first_places[variant],
        shown=len(own),
        clicked=int(own[CLICKED].sum()),
        bought=int(own[BOUGHT].sum()),
        paid=float(own[PAID].sum()),
    )


def _preferences(
    rows: pd.DataFrame, worth: pd.Series[float], asked: AskedInterleaving
) -> npt.NDArray[np.float64]:
    """Return the preference of each customer who gave any credit: ½ for the treatment, −½ for the control, 0."""
    held = worth != 0
    signed = worth[held].where(rows.loc[held, TEAM] == asked.treatment, -worth[held])
    return 0.5 * np.sign(signed.groupby(rows.loc[held, _UNIT]).sum().to_numpy(dtype=np.float64))


def _preference(rows: pd.DataFrame, asked: AskedInterleaving, metric: str, looks: Looks) -> Preference | None:
    """Return the preference by a metric; None where too few customers give any credit."""
    values = _preferences(rows, rows[WORTH[metric]], asked)
    if len(values) < _FEWEST:
        return None
    delta, low, high, p = interval(values, looks, confidence=asked.confidence)
    return Preference(
        metric=metric,
        decides=metric == asked.metric,
        customers=len(values),
        for_treatment=int((values > 0).sum()),
        for_control=int((values < 0).sum()),
        ties=int((values == 0).sum()),
        delta=delta,
        low=low,
        high=high,
        p=p,
        p_holm=None,
    )


def interval(
    preferences: npt.NDArray[np.float64], looks: Looks, *, confidence: float
) -> tuple[float, float, float, float]:
    """Return the mean preference with the ends of its interval, cut at ±½, and its p-value.

    Parameters
    ----------
    preferences : array of −½, 0 and ½, shape (customers,)
    looks, confidence
        As in ``effect``.
    """
    n = len(preferences)
    size, freedom = np.asarray(float(n)), np.asarray(max(n - 1.0, 1.0))
    delta = float(preferences.mean())
    error = float(np.sqrt((preferences**2).mean() / n))
    if error == 0:  # nobody prefers either
        return 0.0, 0.0, 0.0, 1.0
    reach = float(looks.reach(size, freedom, 1 - confidence)) * error
    p = float(looks.p(np.asarray(delta / error), size, freedom))
    return delta, max(delta - reach, -0.5), min(delta + reach, 0.5), p


def _corrected(rows: list[Preference]) -> list[Preference]:
    rest = [i for i, row in enumerate(rows) if not row.decides]
    for i, p in zip(rest, holm([rows[i].p for i in rest]), strict=True):
        rows[i] = rows[i].model_copy(update={"p_holm": float(p)})
    return rows


def _over_time(
    owed: Credits, asked: AskedInterleaving, looks: Looks, now: pd.Timestamp
) -> Iterator[PreferenceLook]:
    """Yield how the deciding metric stood at the end of each day, or of every few where there are many."""
    column = WORTH[asked.metric]
    kind = s.CLICK if asked.metric == CLICKS else s.PURCHASE
    events = owed.events[owed.events[s.KIND] == kind]
    if events.empty:
        return
    days = pd.date_range(owed.rows[s.AT].min().ceil("D"), now.ceil("D"), freq="D")
    for at in days[:: -max(-(-len(days) // _LOOKS), 1)][::-1]:
        known = events[events[s.AT] <= at]
        if column == PAID:
            worth = known[s.VALUE].fillna(0.0).groupby(known[ROW]).sum().reindex(owed.rows.index)
            worth = worth.fillna(0.0)
        else:
            worth = pd.Series(owed.rows.index.isin(known[ROW]).astype(float))
        values = _preferences(owed.rows, worth, asked)
        if len(values) >= _FEWEST:
            delta, low, high, _ = interval(values, looks, confidence=asked.confidence)
            yield PreferenceLook(
                at=instant_of(min(at, now)), customers=len(values), delta=delta, low=low, high=high
            )


def _needed(deciding: Preference, asked: AskedInterleaving, looks: Looks, *, days: float) -> Plan:
    spread2 = (deciding.for_treatment + deciding.for_control) / deciding.customers / 4
    required = required_customers(
        spread2, asked.smallest, looks, share=0.5, confidence=asked.confidence, power=asked.power
    )
    left = None if required is None else days_to_go(required, deciding.customers, days)
    return Plan(variant=asked.treatment, required=required, read=deciding.customers, days=left)
