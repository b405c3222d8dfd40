"""One experiment of each kind over HTTP, on a shop of the simulated world, held against what is so.

The shop serves both variants, which differ in how much of a list they leave to chance, from files as a merchandiser
would write them: rules for each variant, ``experiments.toml`` with an A/B split on one surface and an interleaved
experiment on another. Visitors come over keep-alive connections and tell what they do. Then the log is exported and
read by the very functions behind ``nextbest experiment``, and the treatment is valued by the control's log.

The doubly robust value takes each customer's first visit alone, before anything they told could change their list.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
import pandas as pd
from scipy import stats

from eval.benchmarks.agreement import Stage
from eval.benchmarks.shown import Variant, left_to_chance
from eval.benchmarks.visits import HttpShop, Played, play
from eval.experiment.comparison import CLICKS
from eval.experiment.customers import enrol
from eval.experiment.interleaving import AskedInterleaving, read_interleaving
from eval.experiment.reading import Asked, read
from eval.world_visitors import Visitors
from feature_repo import schema as s
from serving.errors import NextbestError
from serving.events.live import event_log
from serving.process import running
from serving.settings import Settings
from training.benchmarks.world_shop import WorldShop, live_recommender, menu_of
from training.export import export, export_exposures

Progress = Callable[[str, int, int], None]

SPLIT: Final = "split"
MIXED: Final = "mixed"
_LANES: Final = 4
_DAYS: Final = 120.0
_MOST_SECONDS: Final = 240.0
_RULE: Final = '[[explore]]\nname = "{name}"\nslots = [{slots}]\nepsilon = {epsilon!r}\n'
_VARIANT: Final = '[[experiments.variants]]\nname = "{name}"\nrules = "{name}.toml"\n'


@dataclass(frozen=True)
class Logged:
    """What the experiments left: what visitors did until when, what was shown, and what was done with it."""

    played: dict[str, Played]
    ends: dict[str, pd.Timestamp]
    exposures: pd.DataFrame
    interactions: pd.DataFrame


def live_agreement(
    shop: WorldShop,
    *,
    now: datetime,
    clock: Callable[[], datetime],
    epsilon: float = 0.1,
    loss: float = 0.3,
    visits: int = 3000,
    workers: int = 2,
    n: int = 10,
    seed: int = 0,
    progress: Progress,
) -> dict[str, Any]:
    """Serve, let visitors come, read, and return what was found beside what is so.

    Parameters
    ----------
    shop
        Whose live bundle is served.
    now
        When its history ended.
    clock
        Gives the time.
    epsilon, loss
        How much the control leaves to chance, and by which share the treatment's expected clicks are lower.
    visits
        To each of the two experiments.
    workers
        Processes of the service.
    n
        Length of the lists.
    seed
        Of visits and what they look at.
    progress
        Told what is done.

    Raises
    ------
    NextbestError
        Visitors or their events were lost, or propensities were logged that are not those of the rules.
    """
    visitors = Visitors.of(shop.truth, at=now, days=_DAYS)
    menu = menu_of(live_recommender(shop.settings), visitors, n=n, at=clock())
    control = Variant(menu, epsilon)
    treatment = left_to_chance(visitors, control, loss)
    stage = Stage(visitors, control, treatment)
    _write_files(shop.settings, {"control": control, "treatment": treatment}, n)
    logged = _played(shop.settings, visitors, visits, workers, n, seed, clock, progress)
    return {
        "visitors": len(visitors.ids),
        "workers": workers,
        "epsilon_control": epsilon,
        "epsilon_treatment": treatment.epsilon,
        "truth_relative": stage.gap / control.clicks(visitors),
        "visits": {name: played.to_json() for name, played in logged.played.items()},
        # before what was clicked on the other surface
        "ab": {"truth": stage.gap, **_split(logged, logged.ends[SPLIT])},
        "interleaving": _mixed(logged, logged.ends[MIXED]),
        "doubly_robust": valued_by_log(logged.exposures, logged.interactions, stage, name=SPLIT),
    }


def _write_files(settings: Settings, variants: dict[str, Variant], n: int) -> None:
    slots = ", ".join(map(str, range(1, n + 1)))
    for name, variant in variants.items():
        rule = _RULE.format(name=name, slots=slots, epsilon=variant.epsilon)
        settings.experiments.with_name(f"{name}.toml").write_text(rule)
    parts = {
        f'kind = "split"\nsurfaces = ["{SPLIT}"]': "weight = 50\n",
        f'kind = "interleave"\nsurfaces = ["{MIXED}"]': "",
    }
    settings.experiments.write_text(
        "\n".join(
            f'[[experiments]]\nname = "{name}"\n{head}\n'
            + "".join(_VARIANT.format(name=variant) + weight for variant in variants)
            for name, (head, weight) in zip((SPLIT, MIXED), parts.items(), strict=True)
        )
    )


def _played(
    settings: Settings,
    visitors: Visitors,
    visits: int,
    workers: int,
    n: int,
    seed: int,
    clock: Callable[[], datetime],
    progress: Progress,
) -> Logged:
    played, ends = {}, {}
    with running(settings, workers=workers) as service:
        for number, surface in enumerate((SPLIT, MIXED)):
            shops = [HttpShop(service.url) for _ in range(_LANES)]
            played[surface] = play(
                visitors,
                shops,
                visits=visits,
                seconds=_MOST_SECONDS,
                seed=seed + number,
                clock=clock,
                n=n,
                surface=surface,
                progress=_named(progress, surface),
            )
            ends[surface] = pd.Timestamp(clock())
            for shop in shops:
                shop.close()
    with TemporaryDirectory(prefix="nextbest-read-") as directory:
        log = event_log(settings)
        export_exposures(log, Path(directory))
        export(log, Path(directory))
        log.close()
        logged = Logged(
            played,
            ends,
            pd.read_parquet(Path(directory, "exposures.parquet")),
            pd.read_parquet(Path(directory, f"{s.INTERACTIONS}.parquet")),
        )
    _check_nothing_lost(logged)
    return logged


def _named(progress: Progress, name: str) -> Progress:
    return lambda what, done, total: progress(f"{what}, {name}", done, total)


def _check_nothing_lost(logged: Logged) -> None:
    """Hold the log against what the visitors know."""
    told = sum(one.told for one in logged.played.values())
    taken = sum(one.accepted for one in logged.played.values())
    visits = sum(one.visits for one in logged.played.values())
    kept, answers = len(logged.interactions), logged.exposures[s.REQUEST_ID].nunique()
    if (told, visits) != (kept, answers) or taken + sum(
        one.duplicates for one in logged.played.values()
    ) != told:
        raise NextbestError(
            f"expected {told} events of {visits} answers in the log, each once, found {kept} ({taken} accepted) of "
            f"{answers}; see the log of the service"
        )


def _split(logged: Logged, now: pd.Timestamp) -> dict[str, Any]:
    enrolled = enrol(logged.exposures, logged.interactions, SPLIT, now=now, window_days=1, immature=True)
    reading = read(
        enrolled,
        logged.exposures,
        Asked({"control": 0.5, "treatment": 0.5}, metric=CLICKS, final=True),
        name=SPLIT,
        now=now,
        window_days=1,
        past_days=56,
        immature=True,
    )
    change = next((one.change for one in reading.metrics if one.decides), None)
    return {
        "customers": len(enrolled.rows),
        **(
            {}
            if change is None
            else change.model_dump(include={"difference", "low", "high", "relative", "p"})
        ),
        "verdict": reading.verdict.sentence,
    }


def _mixed(logged: Logged, now: pd.Timestamp) -> dict[str, Any]:
    asked = AskedInterleaving("control", "treatment", metric=CLICKS, final=True)
    reading = read_interleaving(
        logged.exposures, logged.interactions, asked, name=MIXED, now=now, window_days=1
    )
    preference = next((one for one in reading.preferences if one.decides), None)
    found = {} if preference is None else preference.model_dump(include={"delta", "low", "high", "p"})
    return {
        "customers": reading.counts.customers,
        "first_places": {team.variant: team.first_places for team in reading.teams},
        **found,
        "verdict": reading.verdict.sentence,
    }


def valued_by_log(
    exposures: pd.DataFrame, interactions: pd.DataFrame, stage: Stage, *, name: str
) -> dict[str, Any]:
    """Value the treatment by the log of the control, the first visit of each customer, in clicks of such a visit.

    Parameters
    ----------
    exposures, interactions
        As ``nextbest events export`` writes them.
    stage
        The control is what the exposures of the variant ``control`` were answered by, as of before they began.
    name
        The experiment.

    Raises
    ------
    NextbestError
        A propensity was logged that is not that of the rules.
    """
    rows = exposures[(exposures["experiment"] == name) & (exposures["variant"] == "control")]
    first = rows.sort_values(s.AT).drop_duplicates(s.CUSTOMER_ID)[s.REQUEST_ID]
    rows = rows[rows[s.REQUEST_ID].isin(first)].sort_values([s.REQUEST_ID, "position"])
    known = {customer: row for row, customer in enumerate(stage.visitors.ids)}
    n, menu = stage.control.menu.n, stage.control.menu
    shown = np.array([stage.visitors.index[one] for one in rows[s.PRODUCT_ID]]).reshape(-1, n)
    visitor = np.array([known[one] for one in rows[s.CUSTOMER_ID]]).reshape(-1, n)[:, 0]
    clicked = interactions[interactions[s.KIND] == s.CLICK]
    keys = pd.MultiIndex.from_frame(rows[[s.REQUEST_ID, s.PRODUCT_ID]])
    clicks = keys.isin(pd.MultiIndex.from_frame(clicked[[s.REQUEST_ID, s.PRODUCT_ID]]))
    usual, epsilon = shown == menu.usual[visitor], stage.control.epsilon
    likely = epsilon / menu.pool[visitor][:, None] + np.where(usual, 1 - epsilon, 0.0)
    logged_as = rows[s.PROPENSITY].to_numpy(dtype=np.float64).reshape(-1, n)
    off = float(np.abs(likely - logged_as).max())
    if off > 1e-9:
        raise NextbestError(
            f"expected the logged propensities to be those of the rules, found one that is off by {off:.2g}; the "
            "service answers under other rules, or from other lists, than the benchmark knows"
        )
    differences = stage.robust(
        visitor, shown, clicks.reshape(-1, n).astype(np.float64), np.arange(len(shown))
    ).sum(axis=1)
    mean, error = float(differences.mean()), float(differences.std(ddof=1) / len(differences) ** 0.5)
    reach = float(stats.norm.isf(0.025)) * error
    return {
        "truth": stage.gap_of_first_visits,
        "customers": len(differences),
        "difference": mean,
        "low": mean - reach,
        "high": mean + reach,
        "p": float(2 * stats.norm.sf(abs(mean) / error)) if error else 1.0,
        "propensities_checked": int(likely.size),
    }
