"""``refresh`` killed with ``kill -9`` at ten random moments, beside a live service that is asked and told meanwhile."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from eval.benchmarks.clients import TELL, traffic
from eval.benchmarks.own_home import OwnHome
from eval.benchmarks.supervised import supervised
from feature_repo import schema as s
from feature_repo.tables import Tables
from serving.bundle import load, verify
from serving.live import Live
from serving.settings import Settings
from tests.tiny_shop import TINY, ready_shop, tiny
from training.refresh import STEPS, refresh
from training.refresh_runs import Run, Runs

KILLS = 10
FIRST = "first"


@dataclass(frozen=True)
class Site:
    """A home that is served, its tables, and what both were before each run."""

    settings: Settings
    tables: Path
    config: Path
    before: Path

    def start(self, *, until: str) -> subprocess.Popen[bytes]:
        """Start ``nextbest refresh``, and wait until it comes to a step or has ended."""
        calls = self.calls()
        command = [sys.executable, "-c", "from training.cli import main; main()", "refresh"]
        process = subprocess.Popen(
            [*command, str(self.tables), "--config", str(self.config)],
            env={**os.environ, "NEXTBEST_HOME": str(self.settings.home)},
            cwd=Path(__file__).parents[1],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        before = set(STEPS[: STEPS.index(until)])
        while process.poll() is None and (self.calls() == calls or not before <= set(self.newest.seconds)):
            time.sleep(0.002)
        return process

    def calls(self) -> tuple[str, int]:
        run = Runs(self.settings.refresh).newest()
        return ("", 0) if run is None else (run.run, len(run.calls))

    @property
    def newest(self) -> Run:
        run = Runs(self.settings.refresh).newest()
        assert run is not None
        return run

    def remember(self) -> None:
        """Keep what the next run starts from."""
        to = self.before / (self.calls()[0] or FIRST)
        shutil.copytree(self.settings.bundles, to / "home" / "bentoml" / "models" / "nextbest")
        shutil.copy(self.settings.live, to / "home" / "live.json")
        shutil.copytree(self.tables, to / "tables")

    def check(self) -> int:
        """Nothing is half: what is live, every bundle, the tables and the records; return the interactions."""
        version = Live.read(self.settings.live).version(self.settings.slot)
        assert version is not None and load(self.settings.bundles, version).version == version
        for folder in self.settings.bundles.iterdir():
            if not folder.name.startswith(".staging-"):
                verify(folder, folder.name)
        records = list(self.settings.refresh.glob("*.json"))
        assert len(Runs(self.settings.refresh).all()) == len(records)
        with Tables.open(self.tables) as tables:
            return tables.rows(s.INTERACTIONS)

    def left_alone(self, run: Run, before: str, events: Path) -> tuple[Settings, Run]:
        """Do a run again from what was there before it, with the same log, and nobody to disturb it."""
        place = self.before / before
        settings = Settings.load(home=place / "home")
        shutil.copytree(events, settings.events)
        return settings, refresh(settings, place / "tables", tiny(), now=run.begun)


@pytest.mark.slow
def test_ten_kills_beside_a_live_service_change_nothing(tmp_path: Path) -> None:
    """No request fails, nothing is ever half, and each run ends as one that was left alone: to the byte."""
    shop = ready_shop(tmp_path / "shop")
    own = OwnHome.copied(shop.settings, tmp_path / "home")
    (tmp_path / "tiny.toml").write_text(TINY)
    site = Site(own.settings, shop.tables, tmp_path / "tiny.toml", tmp_path / "before")
    usual = Runs(shop.settings.refresh).all()[0].seconds
    rng, rows = random.Random(6), site.check()
    killed: list[int] = []
    finished = [FIRST]
    with (
        supervised(own, tmp_path / "service.log", workers=1) as service,
        traffic(own, service.url, "load", tells=10.0, asks=10.0, lanes=2) as clients,
    ):
        time.sleep(1.0)
        site.remember()
        while len(killed) < KILLS or site.newest.outcome == "unfinished":
            step = rng.choice(STEPS)
            process = site.start(until=step)
            try:
                longest = max(0.05, usual[step])
                process.wait(timeout=rng.uniform(0.0, longest) if len(killed) < KILLS else 60.0)
            except subprocess.TimeoutExpired:
                process.kill()
                killed.append(len(site.newest.seconds))
            told = process.communicate()[1].decode()
            assert process.returncode in (0, -9), told
            rows, was = site.check(), rows
            assert rows >= was
            assert site.newest.outcome in ("unfinished", "published"), "events came, so something is new"
            if site.newest.outcome == "published":  # by a call that was killed as it ended, perhaps
                finished.append(site.newest.run)
                site.remember()
    assert not clients.seen.wrong
    assert {outcome for _, outcome in clients.seen.answers} == {"200"}, clients.seen.to_json()
    assert clients.seen.count(TELL, "200") > 100
    runs = {run.run: run for run in Runs(site.settings.refresh).all()}
    disturbed = [(before, runs[name]) for before, name in pairwise(finished)]
    assert len(set(killed)) >= 3, "in several steps"
    assert sum(len(run.calls) - 1 for _, run in disturbed) >= KILLS - 4, "few calls were killed as they ended"
    for before, run in disturbed:
        if len(run.calls) == 1:
            continue
        settings, clean = site.left_alone(run, before, site.settings.events)
        assert (run.data, run.gate, run.bundle) == (clean.data, clean.gate, clean.bundle)
        ours, theirs = (
            load(one.bundles, str(other.version)) for one, other in ((site.settings, run), (settings, clean))
        )
        assert ours.manifest == theirs.manifest
        if ours.vectors is not None and theirs.vectors is not None:
            np.testing.assert_array_equal(ours.vectors, theirs.vectors)
