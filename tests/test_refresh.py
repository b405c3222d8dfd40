"""``refresh``: one run from the event log to what is live; killed anywhere it goes on and ends as if left alone."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from serving import live
from serving.errors import DataError
from serving.events import EVENTS, Event
from serving.events.live import event_log
from tests.conftest import NOW
from tests.tiny_shop import MICROS, TINY, Shop, tiny
from training.cli import main
from training.export import export
from training.recipe import Recipe, TrainConfig
from training.refresh import STEPS, refresh
from training.refresh_runs import KEPT, Run, Runs
from training.train import one_job


class Killed(BaseException):
    """As ``kill -9`` would: nobody may catch it."""


@pytest.fixture
def shop(ready: Shop, tmp_path: Path) -> Shop:
    return ready.copy(tmp_path)


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir()) if path.is_file()}


def test_events_become_a_bundle_that_is_live(shop: Shop) -> None:
    before, rows = shop.live, shop.rows
    shop.tell("a", count=4)
    run = shop.refresh()
    assert (run.outcome, run.events) == ("published", {"interactions": 4, "exposures": 0})
    assert shop.rows == rows + 4
    assert list(run.seconds) == ["events", "tables", "features", "gate", "refit", "publish"]
    assert run.data is not None and run.gate is not None
    assert run.data.rows["interactions"] == rows + 4
    assert f"nextbest:{shop.live}" == run.bundle and run.live_before == f"nextbest:{before}"
    told = json.loads((shop.settings.bundles / str(shop.live) / "bundle" / "manifest.json").read_text())
    assert told["data"]["tables_hash"] == run.data.hash
    assert told["recipe"] == run.gate.winner
    assert Runs(shop.settings.refresh).newest() == run, "what is returned is what is on disk"


def test_nothing_new_keeps_and_touches_nothing(shop: Shop) -> None:
    tables, was = contents(shop.tables), shop.settings.live.read_bytes()
    bundles = sorted(path.name for path in shop.settings.bundles.iterdir())
    first = Runs(shop.settings.refresh).newest()
    for days in (1, 2):
        run = shop.refresh(days=days)
        assert run.outcome == "kept"
        assert list(run.seconds) == ["events", "tables"]
        assert first is not None and first.run in run.said and f"nextbest:{shop.live} stays live" in run.said
    assert contents(shop.tables) == tables
    assert shop.settings.live.read_bytes() == was
    assert sorted(path.name for path in shop.settings.bundles.iterdir()) == bundles
    kept = [run for run in Runs(shop.settings.refresh).all() if run.outcome == "kept"]
    assert len(kept) == 1, "idle runs do not push others out"


def test_other_recipes_are_new_and_so_is_a_home_with_nothing_live(shop: Shop) -> None:
    other = TrainConfig.parse(TINY.replace("epochs = 10", "epochs = 11"), "other.toml")
    assert shop.refresh(config=other).outcome == "published"
    assert shop.refresh(days=2, config=other).outcome == "kept"
    shop.settings.live.write_text("nothing of ours")
    assert shop.refresh(days=3, config=other).outcome == "published"
    assert shop.live is not None


def test_impressions_alone_change_no_table(shop: Shop) -> None:
    log = event_log(shop.settings)
    log.append_events([Event(str(n), "impression", MICROS, "p1", customer_id="c1") for n in range(3)])
    tables = contents(shop.tables)
    assert export(log, shop.tables) == 0
    assert contents(shop.tables) == tables
    log.append_events([Event("x", "view", MICROS, "p1", customer_id="c1")])
    assert export(log, shop.tables) == 1
    assert export(log, shop.tables) == 0
    log.close()


def test_an_export_is_cut_at_an_instant_within_a_page(shop: Shop) -> None:
    for day in range(4):
        shop.tell(f"d{day}", count=2, day=day)
    log = event_log(shop.settings)
    stamps = [entry.logged_at for entry in log.read(EVENTS, after=None, limit=100)]
    assert [export(log, shop.tables, until=stamps[place]) for place in (2, 2, 5, 7)] == [3, 0, 3, 2]
    log.close()


OTHER = TINY.replace("epochs = 10", "epochs = 12")


def killed_at(monkeypatch: pytest.MonkeyPatch, write_number: int, shop: Shop, *, days: int = 1) -> None:
    """Kill a run where the record would be written so often: the work of the step before is done."""
    write, written = Runs.write, 0

    def killed(self: Runs, run: Run) -> None:
        nonlocal written
        if written == write_number:
            raise Killed
        written += 1
        write(self, run)

    with monkeypatch.context() as patched:
        patched.setattr(Runs, "write", killed)
        with pytest.raises(Killed):
            shop.refresh(days=days)


@dataclass(frozen=True)
class LeftAlone:
    """A shop before a run, the same killed once its features were built, and what undisturbed runs of it come to."""

    before: Shop
    featured: Shop
    clean: Run


@pytest.fixture(scope="module")
def left_alone(ready: Shop, tmp_path_factory: pytest.TempPathFactory) -> LeftAlone:
    place = tmp_path_factory.mktemp("left-alone")
    before = ready.copy(place / "before")
    before.tell("a", count=4)
    featured = before.copy(place / "featured")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("training.refresh.judge", _raises(Killed()))
        with pytest.raises(Killed):
            featured.refresh()
    return LeftAlone(before, featured, before.copy(place / "clean").refresh())


def test_killed_after_each_step_it_ends_the_same(
    left_alone: LeftAlone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every call is killed where the work of a step is done and its record not yet written: the worst moment."""
    clean, shop = left_alone.clean, left_alone.before.copy(tmp_path)
    killed_at(monkeypatch, 0, shop)
    assert len(Runs(shop.settings.refresh).all()) == 1, (
        "killed before anything was written, nothing was begun"
    )
    for step in STEPS:
        # the first write says that a call begins, the second one makes up for the step that was not told of
        killed_at(monkeypatch, 1 if step == STEPS[0] else 2, shop)
        held = Runs(shop.settings.refresh).newest()
        assert held is not None and list(held.seconds) == list(STEPS[: STEPS.index(step)])
    shop.tell("meanwhile", count=2, day=4)
    run = shop.refresh(days=5)
    assert (run.outcome, len(run.calls)) == ("published", 7)
    assert run.bundle == clean.bundle, (
        "the version is a hash of every file: vectors, metrics and data are the same"
    )
    assert (run.data, run.gate) == (clean.data, clean.gate)
    assert f"nextbest:{shop.live}" == clean.bundle
    versions = {path.name for path in shop.settings.bundles.iterdir()}
    assert versions == {path.name for path in left_alone.before.settings.bundles.iterdir()} | {run.version}
    log = event_log(shop.settings)
    assert export(log, shop.tables) == 2, "what came meanwhile is for the next run"
    log.close()


def test_finished_steps_are_not_done_again(
    left_alone: LeftAlone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clean, shop = left_alone.clean, left_alone.featured.copy(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr("training.refresh.live.publish", _raises(Killed()))
        with pytest.raises(Killed):
            shop.refresh(days=2)
    assert shop.live == left_alone.before.live, "not live before the last step"
    for name in ("export", "judge", "refit", "current_features", "validate"):
        monkeypatch.setattr(f"training.refresh.{name}", _raises(AssertionError(f"{name} was done again")))
    assert shop.refresh(days=3).bundle == clean.bundle


def test_a_bundle_stored_by_a_killed_call_is_taken_up(
    left_alone: LeftAlone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clean, shop = left_alone.clean, left_alone.featured.copy(tmp_path)
    killed_at(monkeypatch, 2, shop)
    assert len(list(shop.settings.bundles.iterdir())) == 2
    monkeypatch.setattr("training.refresh.refit", _raises(AssertionError("was fitted again")))
    assert shop.refresh(days=3).bundle == clean.bundle


def test_another_recipe_gone_live_meanwhile_is_a_new_champion(
    left_alone: LeftAlone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = left_alone.featured.copy(tmp_path)
    monkeypatch.setattr("training.refresh.refit", _raises(Killed()))
    with pytest.raises(Killed):
        shop.refresh()
    monkeypatch.undo()
    before = Runs(shop.settings.refresh).newest()
    assert before is not None and before.gate is not None
    other = Recipe(name="other", model="popularity", popularity_days=7)
    monkeypatch.setattr("training.refresh.live_recipe", lambda settings: other)
    monkeypatch.setattr("training.train.live_recipe", lambda settings: other)
    run = shop.refresh(days=3)
    assert run.outcome == "published" and len(run.calls) == 3
    assert run.gate is not None and run.gate.champion == other.model_dump(mode="json")
    assert "other" in {result["model"] for result in run.gate.metrics["results"]}
    assert "other" not in {result["model"] for result in before.gate.metrics["results"]}


def test_rolled_back_before_it_could_say_so_it_is_not_put_live_again(
    left_alone: LeftAlone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = left_alone.featured.copy(tmp_path)
    was = shop.live
    publish = live.publish

    def published_and_killed(*args: Any) -> None:
        publish(*args)
        raise Killed

    monkeypatch.setattr("training.refresh.live.publish", published_and_killed)
    with pytest.raises(Killed):
        shop.refresh()
    monkeypatch.undo()
    assert shop.live != was
    live.publish(shop.settings.live, shop.settings.slot, str(was))
    assert shop.refresh(days=2).outcome == "published"
    assert shop.live == was


def test_changed_tables_or_recipes_begin_a_killed_run_anew(
    left_alone: LeftAlone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = left_alone.featured.copy(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr("training.refresh.judge", _raises(Killed()))
        for days in (1, 2):
            with pytest.raises(Killed):
                shop.refresh(days=days)
    held = Runs(shop.settings.refresh).newest()
    assert held is not None and len(held.calls) == 3, "one run, three calls"
    path = shop.tables / "interactions.parquet"
    pd.read_parquet(path).iloc[:-1].to_parquet(path, index=False)
    run = shop.refresh(days=4)
    old = Runs(shop.settings.refresh).all()[1]
    assert (old.outcome, len(old.calls)) == ("superseded", 3)
    assert "interactions.parquet changed" in old.said
    assert run.outcome == "published" and len(run.calls) == 1


def test_an_error_is_recorded_and_the_next_run_begins_anew(shop: Shop) -> None:
    was = shop.live
    whole = (shop.tables / "products.parquet").read_bytes()
    products = pd.read_parquet(shop.tables / "products.parquet")
    pd.concat([products, products]).to_parquet(shop.tables / "products.parquet", index=False)
    with pytest.raises(DataError, match="nextbest validate"):
        shop.refresh()
    failed = Runs(shop.settings.refresh).newest()
    assert failed is not None and failed.outcome == "failed" and "nextbest validate" in failed.said
    assert shop.live == was
    (shop.tables / "products.parquet").write_bytes(whole)
    run = shop.refresh(days=2, config=TrainConfig.parse(OTHER, "other.toml"))
    assert run.outcome == "published" and len(run.calls) == 1


def test_where_there_are_no_tables_no_events_are_written(shop: Shop, tmp_path: Path) -> None:
    shop.tell("a")
    (tmp_path / "empty").mkdir()
    for place in ("empty", "nowhere"):
        with pytest.raises(DataError, match=place):
            refresh(shop.settings, tmp_path / place, tiny(), now=NOW)
    assert not list((tmp_path / "empty").iterdir())
    assert len(Runs(shop.settings.refresh).all()) == 1


def test_old_runs_go_with_their_bundles_but_for_those_in_use(shop: Shop) -> None:
    """Of 30 runs 20 are kept; of the ten others, one is live in another slot and one can be rolled back to."""
    runs, bundles = Runs(shop.settings.refresh), shop.settings.bundles
    for path in shop.settings.refresh.iterdir():
        path.unlink()
    versions = [f"2025010100{number:02d}-{number:012d}" for number in range(30)]
    for number, version in enumerate(versions):
        (bundles / version).mkdir()
        run = Run(
            run=f"20250101-0000{number:02d}-000",
            calls=(NOW,),
            tables="t",
            config=None,
            settings={},
            code={},
            bundle=f"nextbest:{version}",
            outcome="published",
        )
        runs.write(run)
    by_hand = str(shop.live)
    live.publish(shop.settings.live, "other", versions[1])
    live.publish(shop.settings.live, shop.settings.slot, versions[4])
    live.publish(shop.settings.live, shop.settings.slot, versions[29])
    shop.settings.experiments.write_text(
        '[[experiments]]\nname = "one"\n[[experiments.variants]]\nname = "only"\nweight = 1\n'
        f'bundle = "nextbest:{versions[6]}"\n'
    )
    runs.sweep(shop.settings)
    assert len(runs.all()) == KEPT == 20
    left = {path.name for path in bundles.iterdir()}
    assert left == {by_hand, versions[1], versions[4], versions[6], *versions[10:]}
    shop.settings.live.write_text("nothing of ours")
    runs.write(runs.all()[0].changed(run="20260101-000000-000"))
    runs.sweep(shop.settings)
    assert {path.name for path in bundles.iterdir()} == left, "not knowing what is live, it removes nothing"


Words = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(shop: Shop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Words:
    monkeypatch.setenv("NEXTBEST_HOME", str(shop.settings.home))

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["nextbest", "refresh", *map(str, words)])
        code = 0
        try:
            main()
        except SystemExit as stopped:
            code = int(stopped.code or 0)
        told = capsys.readouterr()
        assert "Traceback" not in told.out + told.err
        return code, told.out, told.err

    return call


def test_the_command_remembers_its_tables_and_configuration(run: Words, shop: Shop, tmp_path: Path) -> None:
    record = next(shop.settings.refresh.iterdir())
    record.rename(tmp_path / record.name)
    code, _, err = run()
    assert code == 2 and err.count("\n") == 1 and "nextbest refresh TABLES" in err
    config = tmp_path / "small.toml"
    config.write_text(TINY)
    code, out, _ = run(shop.tables, "--config", config)
    assert code == 0 and "published nextbest:" in out and "record: " in out
    code, out, _ = run("--json")
    told = json.loads(out)
    assert (code, told["outcome"], told["tables"]) == (0, "kept", str(shop.tables))
    assert told["config"] == str(config) and told["settings"]["k"] == 10
    code, out, _ = run()
    assert code == 0 and "nothing is new" in out and "0 interactions were new" in out
    assert run(tmp_path / "nowhere")[0] == 2
    assert json.loads(run("--json")[1])["tables"] == str(shop.tables), "a mistyped path is not remembered"


def test_what_validation_finds_is_printed_and_recorded(run: Words, shop: Shop) -> None:
    path = shop.tables / "interactions.parquet"
    rows = pd.read_parquet(path)
    rows.loc[rows.index[-1], "value"] = -3.0
    rows.to_parquet(path)
    code, out, _ = run()
    assert code == 0
    (line,) = [
        line for line in out.splitlines() if line.startswith("WARN interactions: ") and "value" in line
    ]
    assert "1 of " in line and "checks of the tables: " in out and "nextbest validate" in out
    record = Runs(shop.settings.refresh).newest()
    assert record is not None and record.checks is not None
    assert line in record.checks.told and record.checks.counts["FAIL"] == 0
    again = json.loads(run("--json")[1])
    assert again["outcome"] == "kept" and line in again["checks"]["told"]
    rows.assign(product_id="slip").to_parquet(path)
    code, out, err = run()
    assert (code, out) == (2, "")
    assert "FAIL interactions: " in err and "checks of the tables: " in err
    assert err.splitlines()[-1].startswith("error: expected sound tables")
    failed = Runs(shop.settings.refresh).newest()
    assert failed is not None and failed.checks is not None and failed.checks.counts["FAIL"] > 0


def test_a_second_one_is_told_in_one_sentence_with_a_code_of_its_own(run: Words, shop: Shop) -> None:
    with one_job(shop.settings):
        code, out, err = run(shop.tables)
    assert (code, out, err.count("\n")) == (75, "", 1)
    assert err.startswith("not now: ") and "another job" in err
    assert len(Runs(shop.settings.refresh).all()) == 1


def _raises(error: BaseException) -> Callable[..., Any]:
    def call(*args: Any, **given: Any) -> Any:
        raise error

    return call
