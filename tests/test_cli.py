"""The command as a user meets it: what it prints, where it refuses, and that no traceback ever shows."""

from __future__ import annotations

import errno
import html
import json
import re
import shutil
import socket
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pandas as pd
import pytest
from prometheus_client import CollectorRegistry

from eval.results import Results
from feature_repo.recent import to_micros
from feature_repo.store import open_store
from serving.bundle import load
from serving.errors import ConfigError, DataError
from serving.events.rows import RecentRows
from serving.live import Live
from serving.loading import DAMAGED, Loader
from serving.metrics import Metrics
from serving.recommender import Query
from serving.settings import Settings
from tests.conftest import NOW, SMALL, Published, free_port
from training.cli import demo, main
from training.cli.recommend import open_live


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str


Run = Callable[..., Result]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run ``nextbest`` in this process with the given words."""

    def call(*words: object, home: Path | None = None) -> Result:
        if home is not None:
            monkeypatch.setenv("NEXTBEST_HOME", str(home))
        monkeypatch.setattr(sys, "argv", ["nextbest", *map(str, words)])
        capsys.readouterr()
        code = 0
        try:
            main()
        except SystemExit as stopped:
            code = int(stopped.code or 0)
        captured = capsys.readouterr()
        assert "Traceback" not in captured.out + captured.err
        return Result(code, captured.out, captured.err)

    return call


def test_help_names_every_command(run: Run) -> None:
    told = run("--help").out
    for command in ("demo", "import", "validate", "features", "train", "evaluate", "models", "publish"):
        assert command in told
    commands = (
        "rollback",
        "serve",
        "recommend",
        "rules",
        "benchmark",
        "refresh",
        "tune",
        "experiment",
        "experiments",
    )
    for command in commands:
        assert command in told


def test_path_from_tables_to_an_answer(run: Run, world_tables: Path, tmp_path: Path) -> None:
    """validate → features → train → models → recommend → train again → rollback, in one home."""
    home = tmp_path / "home"
    config = tmp_path / "small.toml"
    config.write_text(SMALL)
    assert run("validate", world_tables, home=home).code == 0
    built = run("features", world_tables, "--json")
    assert built.code == 0
    told = json.loads(built.out)
    assert told["online_rows"]["customer_features"] == told["online_rows"]["customer_recent"] > 100
    trained = run("train", world_tables, "--config", config)
    assert trained.code == 0
    assert "published nextbest:" in trained.out
    assert "┃ customers ┃" in trained.out, "a mean of one customer does not read as a mean of many"
    first = Live.read(home / "live.json").version("default")
    listed = json.loads(run("models", "--json").out)
    assert [(row["live"], row["tag"], row["state"]) for row in listed] == [
        (True, f"nextbest:{first}", "whole")
    ]
    shown = json.loads(run("recommend", "c000001", "-n", "4", "--json").out)
    assert len(shown["recommendations"]) == 4
    assert all(item["name"] for item in shown["recommendations"])
    assert shown["bundle"] == f"nextbest:{first}"
    assert "c000001, by nextbest:" in run("recommend", "c000001").out
    again = json.loads(run("train", world_tables, "--config", config, "--json").out)
    assert again["published"] != f"nextbest:{first}"
    assert run("rollback").out.startswith(f"live: nextbest:{first} (was")
    assert run("publish", again["published"]).code == 0
    assert f"nextbest:{Live.read(home / 'live.json').version('default')}" == again["published"]


def test_evaluate_writes_results_and_publishes_nothing(run: Run, own_copy: Published, tmp_path: Path) -> None:
    config = tmp_path / "small.toml"
    config.write_text(SMALL)
    live = (own_copy.settings.home / "live.json").read_bytes()
    tag = f"nextbest:{own_copy.report.version}"
    words = ("--config", config, "--bundle", tag, "--origins", 2, "--every", 14, "-k", 5)
    told = run("evaluate", own_copy.tables, *words, home=own_copy.settings.home)
    assert told.code == 0, told.err
    assert (own_copy.settings.home / "live.json").read_bytes() == live
    (path,) = own_copy.settings.reports.glob("evaluate-*/results.json")
    results = Results.read(path)
    winner = own_copy.report.verdict.winner.name
    own = ["als", "popularity-28d", "repeats", f"{winner}@{own_copy.report.version}"]
    assert [recipe.name for recipe in results.recipes] == [*own, "popularity", "expert"]
    assert (len(results.origins), results.setting.horizon_days, results.setting.k) == (2, 14, 5)
    assert results.run.command.startswith(f"nextbest evaluate {own_copy.tables} --config")
    assert results.verdict.sentence in told.out.replace("\n", " ")
    report = path.with_name("report.html").read_text(encoding="utf-8")
    assert results.run.command in html.unescape(report)
    index = (own_copy.settings.reports / "index.html").read_text(encoding="utf-8")
    assert f'href="{path.parent.name}/report.html"' in index
    again = run("evaluate", own_copy.tables, *words, "--json")
    assert Results.model_validate_json(again.out).lists == results.lists


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["validate", "nowhere"], "nowhere"),
        (["features", "nowhere"], "nowhere"),
        (["train", "nowhere"], "nowhere"),
        (["evaluate", "nowhere"], "nowhere"),
        (["evaluate", "nowhere", "--origins", "0"], "greater than or equal to 1"),
        (["recommend", "c1"], "nextbest train"),
        (["rollback"], "expected an earlier bundle"),
        (["publish", "nextbest:202601010000-aaaaaaaaaaaa"], "nextbest models"),
        (["publish", "../../etc"], "nextbest models"),
        (["import", "online-retal", "x.csv", "--to", "t"], "online-retail"),
        (["import", "online-retail", "no-such.csv", "--to", "t"], "no-such.csv"),
        (["recommend", "c1", "--purchased", "maybe"], "exclude, allow or due"),
        (["serve", "--port", "99999"], "65535"),
        (["recommend", "c1", "-n", "0"], "greater than or equal to 1"),
        (["no-such-command"], "No such command"),
    ],
)
def test_wrong_words_get_one_sentence_and_exit_2(run: Run, words: list[str], told: str) -> None:
    result = run(*words)
    assert result.code == 2
    assert told in result.out + result.err
    if result.err.startswith("error:"):
        assert result.err.count("\n") == 1


def test_wrong_configuration_key_names_the_nearest(run: Run, world_tables: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.toml"
    wrong.write_text(SMALL.replace("horizon_days", "horizon_day"))
    result = run("train", world_tables, "--config", wrong)
    assert result.code == 2
    assert "'horizon_days'" in result.err
    missing = run("train", world_tables, "--config", tmp_path / "missing.toml")
    assert missing.code == 2
    assert f"expected a TOML file at {tmp_path / 'missing.toml'}, found no file; name another" in missing.err


def test_failing_tables_are_refused_before_anything_is_built(
    run: Run, world_tables: Path, tmp_path: Path
) -> None:
    shutil.copytree(world_tables, tmp_path / "tables")
    (tmp_path / "tables" / "products.parquet").unlink()
    assert run("validate", tmp_path / "tables").code == 2
    result = run("train", tmp_path / "tables")
    assert result.code == 2
    assert "products" in result.err
    assert not (tmp_path / "home" / "features").exists()


def test_models_tell_of_a_corrupt_bundle(run: Run, own_copy: Published) -> None:
    version = own_copy.report.version
    path = own_copy.settings.bundles / version / "bundle" / "popular.npy"
    path.write_bytes(path.read_bytes()[:-1])
    listed = json.loads(run("models", "--json", home=own_copy.settings.home).out)
    assert "popular.npy" in listed[0]["state"]
    assert run("publish", f"nextbest:{version}").code == 2
    refused = run("recommend", "c000001")
    assert refused.code == 2
    assert "popular.npy" in refused.err


def test_bad_settings_are_told(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEXTBEST_LIVE_POLL_SECONDS", "soon")
    result = run("models")
    assert result.code == 2
    assert "NEXTBEST_LIVE_POLL_SECONDS" in result.err
    assert "'soon'" in result.err


def test_as_of_must_be_an_instant(run: Run, world_tables: Path) -> None:
    result = run("features", world_tables, "--as-of", "yesterday")
    assert result.code == 2
    assert "'yesterday'" in result.err


@pytest.mark.parametrize(
    "damaged", ["features/features.json", "feast/registry.db", "feast/online.db", "live.json"]
)
def test_a_damaged_home_is_made_whole_by_training_again(
    run: Run, own_copy: Published, tmp_path: Path, damaged: str
) -> None:
    config = tmp_path / "small.toml"
    config.write_text(SMALL)
    home = own_copy.settings.home
    if damaged.endswith("online.db"):  # the log beside it is whole: enough of it to look like a database
        with sqlite3.connect(home / damaged) as held:
            held.execute("CREATE TABLE more (a TEXT)")
            held.commit()
            log = (home / f"{damaged}-wal").read_bytes()
        held.close()
        (home / f"{damaged}-wal").write_bytes(log)
    (home / damaged).write_text("junk")
    assert run("models", home=home).code == 0
    if damaged != "features/features.json":
        hurt = run("recommend", "c000001")
        assert (hurt.code, "error" in hurt.err) == (2, True) or "without recent history" in hurt.err
    assert run("train", own_copy.tables, "--config", config).code == 0
    whole = run("recommend", "c000001")
    assert (whole.code, whole.err) == (0, "")
    reader = open_live(own_copy.settings).features
    state = reader.read(["c000001"], own_copy.report.backtest.end)[0]
    assert len(state.history) > 0


def test_a_damaged_online_store_is_told_with_its_repair_which_all_who_read_it_take_up(
    run: Run, own_copy: Published
) -> None:
    settings, who = own_copy.settings, "c000001"
    metrics = Metrics(CollectorRegistry())
    loader = Loader(settings, metrics, clock=lambda: NOW)
    serving = loader(own_copy.report.version)
    recent = RecentRows(lambda: open_store(settings.store, offline=False))
    query = Query(at=NOW, customer_id=who)
    before, lines = serving.states([query])[0], recent.read([who])[who]
    path = settings.store.sqlite_path
    with closing(sqlite3.connect(path)) as held:
        held.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    whole = path.read_bytes()
    path.write_bytes(whole[:8192] + b"\x5a" * (len(whole) - 8192))
    hurt = run("recommend", who, home=settings.home)
    assert hurt.code == 0
    assert (
        "the online store is damaged" in hurt.err and "`nextbest features TABLES` makes it anew" in hurt.err
    )
    assert serving.states([query])[0].unread
    assert loader.problem == DAMAGED
    assert run("features", own_copy.tables).code == 0
    assert run("recommend", who).err == ""
    assert dict(serving.states([query])[0].row) == dict(before.row) and len(before.history)
    assert loader.problem == ""
    told = (to_micros(NOW), "p0001", "view", 0.0)
    recent.write({who: (*lines, told)}, {who: to_micros(NOW)})
    assert RecentRows(lambda: open_store(settings.store, offline=False)).read([who])[who][-1] == told


def test_what_checks_warn_of_is_told_in_one_line(run: Run, world_tables: Path, tmp_path: Path) -> None:
    shutil.copytree(world_tables, tmp_path / "tables")
    path = tmp_path / "tables" / "interactions.parquet"
    rows = pd.read_parquet(path)
    rows.loc[rows.index[-1], "value"] = -3.0
    rows.to_parquet(path)
    config = tmp_path / "broken.toml"
    config.write_text(SMALL.replace("horizon_days = 28", "horizon_days = 3000"))
    for words in (("train", tmp_path / "tables"), ("evaluate", tmp_path / "tables", "--horizon", 3000)):
        told = run(*words, "--config", config, "--json").err.splitlines()
        (line,) = [one for one in told if one.startswith("checks of the tables: ")]
        assert " WARN, 0 FAIL; `nextbest validate " in line


def test_more_origins_than_there_are_are_refused_before_anything_is_built(
    run: Run, world_tables: Path, tmp_path: Path
) -> None:
    told = run("evaluate", world_tables, "--origins", 5000, "--every", 30, home=tmp_path / "home")
    assert told.code == 2
    found = re.search(
        r"room for 5000 origins, .* found room for (\d+) between .* give --origins (\d+)", told.err
    )
    assert found and found[1] == found[2] and 1 < int(found[1]) < 10
    assert not (tmp_path / "home" / "features").exists()


def test_events_are_not_exported_to_a_directory_that_is_not_there(run: Run, tmp_path: Path) -> None:
    told = run("events", "export", "--to", tmp_path / "typo", home=tmp_path / "home")
    assert (told.code, told.err.count("\n")) == (2, 1)
    assert f"tables at {tmp_path / 'typo'}, found none" in told.err
    assert not (tmp_path / "typo").exists()


def test_the_shop_of_the_demo_ends_at_the_last_midnight_or_where_it_is_asked_to() -> None:
    now = datetime(2026, 3, 1, 15, 30, tzinfo=UTC)
    assert demo._midnight(None, now) == datetime(2026, 3, 1, tzinfo=UTC)
    assert demo._midnight(datetime(2026, 2, 1), now) == datetime(2026, 2, 1, tzinfo=UTC)  # noqa: DTZ001
    with pytest.raises(ConfigError, match="expected --ends-at up to 2026-03-01, found 2026-03-02"):
        demo._midnight(datetime(2026, 3, 2), now)  # noqa: DTZ001


def test_the_demo_leaves_another_shop_alone(run: Run, tmp_path: Path) -> None:
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "products.parquet").write_bytes(b"mine")
    told = run("demo", "--customers", "50", "--products", "50", "--once", home=tmp_path)
    assert told.code == 2 and f"expected a home without another shop, found {tmp_path / 'tables'}" in told.err
    assert (tmp_path / "tables" / "products.parquet").read_bytes() == b"mine"


def test_the_demo_looks_for_its_port_before_anything_else(run: Run, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        told = run("demo", "--once", "--port", str(port), home=tmp_path / "home")
    assert told.code == 2 and "expected a free port" in told.err
    assert not (tmp_path / "home" / "tables").exists()


def test_a_damaged_live_file_does_not_lock_publishing_out(run: Run, own_copy: Published) -> None:
    home = own_copy.settings.home
    (home / "live.json").write_text("{")
    refused = run("rollback", home=home)
    assert refused.code == 2
    assert "publish a bundle again" in refused.err
    assert run("publish", f"nextbest:{own_copy.report.version}").code == 0
    assert run("recommend", "c000001").code == 0


def test_a_live_bundle_that_is_gone_is_listed_as_such(run: Run, own_copy: Published) -> None:
    shutil.rmtree(own_copy.settings.bundles / own_copy.report.version)
    listed = json.loads(run("models", "--json", home=own_copy.settings.home).out)
    assert listed[0]["live"]
    assert "found no manifest.json" in listed[0]["state"]


def test_a_home_that_is_a_file_is_one_sentence(run: Run, world_tables: Path, tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    for words in (["train", world_tables], ["features", world_tables], ["serve", "--port", free_port()]):
        result = run(*words, home=tmp_path / "plain")
        assert result.code == 2
        assert result.err.startswith("error: expected to read and write files")


def test_settings_nobody_knows_or_that_do_not_fit_are_told(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEXTBEST_REDIS_ULR", "redis://x")
    assert "NEXTBEST_REDIS_URL" in run("models").err
    monkeypatch.delenv("NEXTBEST_REDIS_ULR")
    monkeypatch.setenv("NEXTBEST_REDIS_URL", "localhost:6379")
    refused = run("serve", "--port", free_port())
    assert refused.code == 2
    assert "redis://host:6379/0" in refused.err


def test_serve_tells_of_a_slot_where_nothing_is_live(
    run: Run, published: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    became: list[list[str]] = []
    monkeypatch.setattr("os.execve", lambda path, words, environment: became.append(words))
    for slot in ("default", "blue"):
        monkeypatch.setenv("NEXTBEST_SLOT", slot)
        told = run("serve", "--port", free_port(), home=published.settings.home).err
        assert ("the slot 'blue', found slots 'default' only" in told) == (slot == "blue")
    assert len(became) == 2, "it starts all the same"


def few(directory: Path, rows: list[tuple[str, str, str, str]]) -> Path:
    """Tables with exactly these interactions: customer, product, instant, kind."""
    directory.mkdir()
    lines = ["customer_id,product_id,at,kind", *(",".join(row) for row in rows)]
    (directory / "interactions.csv").write_text("\n".join(lines) + "\n")
    (directory / "products.csv").write_text(
        "product_id\n" + "\n".join(sorted({row[1] for row in rows})) + "\n"
    )
    return directory


DAYS = [f"2026-{month:02d}-{day:02d}" for month in range(1, 7) for day in (1, 8, 15, 22)]


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([("c1", "p1", DAYS[0], "purchase")], "found 0 days"),
        ([("c1", "p1", day, "view") for day in DAYS], "to judge recipes by; found 0"),
        ([("c1", "p1", "2026-01-01", "purchase"), ("c1", "p2", "2026-01-09", "purchase")], "found 8 days"),
    ],
    ids=["one purchase", "only views", "a week"],
)
def test_too_little_to_train_on_is_told(
    run: Run, tmp_path: Path, rows: list[tuple[str, str, str, str]], told: str
) -> None:
    result = run("train", few(tmp_path / "few", rows))
    assert result.code == 2
    assert told in result.err


@pytest.mark.parametrize(
    ("error", "expected", "other"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "x.parquet"), "room on the disk", "--memory"),
        (
            duckdb.IOException('Could not write file "x": No space left on device'),
            "room on the disk",
            "--memory",
        ),
        (
            duckdb.OutOfMemoryException(
                "failed to offload data block; set by the 'max_temp_directory_size' setting"
            ),
            "room on the disk",
            "--memory",
        ),
        (sqlite3.OperationalError("database or disk is full"), "room on the disk", "--memory"),
        (
            duckdb.OutOfMemoryException("failed to allocate data of size 32.0 KiB"),
            "give more --memory",
            "disk",
        ),
        (MemoryError(), "found: MemoryError", "disk"),
        (
            duckdb.IOException('Cannot open file "x": Permission denied'),
            "leave to read and write",
            "--memory",
        ),
    ],
    ids=["os", "duckdb", "spill", "sqlite", "memory", "python", "leave"],
)
def test_a_full_disk_and_too_little_memory_are_told_apart(
    run: Run, world_tables: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, expected: str, other: str
) -> None:
    def fails(*args: object, **given: object) -> None:
        raise error

    monkeypatch.setattr("training.cli.features.build_features", fails)
    told = run("features", world_tables)
    assert told.code == 2
    line = told.err.splitlines()[-1]
    assert line.startswith("error: ") and expected in line and other not in line

    def wrapped(*args: object, **given: object) -> None:
        raise DataError("expected a readable file") from error

    monkeypatch.setattr("training.cli.features.build_features", wrapped)
    is_shortage = error.__class__ is not duckdb.IOException or "No space" in str(error)
    assert (run("features", world_tables).err == told.err) == is_shortage, (
        "what an error of ours came of counts"
    )


def test_one_customer_is_enough_to_publish(run: Run, tmp_path: Path) -> None:
    rows = [("c1", f"p{n % 5}", day, "purchase") for n, day in enumerate(DAYS)]
    assert run("train", few(tmp_path / "few", rows)).code == 0
    assert run("recommend", "c1", "--purchased", "allow").code == 0
    assert "nothing on sale passes" in run("recommend", "c1").out


def test_products_without_a_row_are_learnt_from_and_never_recommended(run: Run, tmp_path: Path) -> None:
    customers = [f"c{n}" for n in range(6)]
    rows = [
        (c, f"p{(n + i) % 4}", day, "purchase") for i, c in enumerate(customers) for n, day in enumerate(DAYS)
    ]
    rows += [(c, "p9", DAYS[-1 - i], "purchase") for i, c in enumerate(customers)] * 3
    tables = few(tmp_path / "few", rows)
    (tables / "products.csv").write_text("product_id\np0\np1\np2\np3\n")
    trained = run("train", tables)
    assert trained.code == 0, trained.err
    home = Settings.load()
    bundle = load(home.bundles, str(Live.read(home.live).version(home.slot)))
    assert bundle.catalog.ids[bundle.popular[0]] == "p9", "it is learnt from"
    for customer in ("stranger", "c1"):
        told = run("recommend", customer, "--purchased", "allow", "-n", 10, "--json")
        shown = {item["product_id"] for item in json.loads(told.out)["recommendations"]}
        assert shown == {"p0", "p1", "p2", "p3"}


def test_rules_are_checked_tried_and_traced(run: Run, own_copy: Published, tmp_path: Path) -> None:
    home = own_copy.settings.home
    items = json.loads(run("recommend", "c000001", "-n", "8", "--json", home=home).out)["recommendations"]
    pinned = items[7]["product_id"]
    path = home / "rules.toml"
    path.write_text(
        f'[[pin]]\nname = "spring"\nproduct_id = "{pinned}"\nslot = 2\nsurface = ["home"]\n'
        '[[price]]\nname = "nothing free"\nmin = 0.01\n'
        '[[explore]]\nname = "tenth"\nslots = [4]\nepsilon = 1.0\n'
    )
    checked = run("rules", "check")
    assert checked.code == 0
    for word in ("spring", f"{pinned} in slot 2", "on home", "nothing free", "tenth", "3 rules"):
        assert word in checked.out
    assert "3 rules of" in checked.out and "hold together" in checked.out and "warning" not in checked.out
    odd = tmp_path / "odd.toml"
    odd.write_text('[[eligibility]]\nname = "misspelt"\ncustomer = "region"\none_of = ["cappital"]\n')
    warned = run("rules", "check", odd)
    assert warned.code == 0 and "hold together" not in warned.out
    assert "warning: misspelt: it hides all" in warned.out and "is shown nothing" in warned.out
    rows = json.loads(run("rules", "check", path, "--json").out)["rules"]
    assert [(row["kind"], row["name"]) for row in rows] == [
        ("price", "nothing free"),
        ("pin", "spring"),
        ("explore", "tenth"),
    ]
    words = ("recommend", "c000001", "-n", "4", "--rules", path, "--surface", "home")
    shown = json.loads(run(*words, "--json").out)["recommendations"]
    assert (shown[1]["product_id"], shown[1]["source"]) == (pinned, "pinned")
    assert shown[0]["product_id"] == items[0]["product_id"]
    traced = json.loads(run(*words, "--trace", "--json", "--request-id", "r1").out)
    moved = next(product for product in traced["products"] if product["product_id"] == pinned)
    assert moved["moves"] == [{"rule": "spring", "before": None, "after": 2}]
    assert traced["soft"] == ["spring", "tenth"]
    assert 0 < traced["products"][3]["propensity"] < 1
    told = run(*words, "--trace").out
    assert "spring: – → 2" in told and "hard rules: nothing free" in told


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('[[pin]]\nname = "a"\nslot = 1\nproduct = "p"\n', "expected"),
        ('[[cap]]\nname = "a"\nat_most = 1\ncategory = ["no such"]\n', 'found "no such"'),
        ('[[age]]\nname = "a"\nmin = 18\nyears = "no_such"\n', "expected an attribute of the customers"),
        ('[[age]]\nname = "a"\nmin = 18\nyears = "region"\n', 'found "region", which is a text'),
        ("what", "expected TOML"),
    ],
)
def test_broken_rules_are_one_sentence_and_exit_2(
    run: Run, published: Published, tmp_path: Path, text: str, told: str
) -> None:
    path = tmp_path / "broken.toml"
    path.write_text(text)
    for words in (("rules", "check", path), ("recommend", "c000001", "--trace", "--rules", path)):
        result = run(*words, home=published.settings.home)
        assert result.code == 2
        assert result.out == "" and result.err.startswith("error: expected") and result.err.count("\n") == 1
        assert told in result.err and str(path) in result.err


def test_rules_by_attributes_of_customers_read_them_whatever_the_bundle_reads(
    run: Run, own_copy: Published, tmp_path: Path
) -> None:
    """The simulated shop knows its customers' region; a bundle without attributes serves them to rules all the same."""
    path = tmp_path / "rules.toml"
    customers = pd.read_parquet(own_copy.tables / "customers.parquet").drop_duplicates(
        "customer_id", keep="last"
    )
    region_of = customers.set_index("customer_id")["region"].dropna()
    customer, region = region_of.index[0], region_of.iloc[0]
    path.write_text(f'[[eligibility]]\nname = "only there"\ncustomer = "region"\none_of = ["{region}"]\n')
    other = next(one for one, theirs in region_of.items() if theirs != region)
    shown = [
        json.loads(run("recommend", who, "--rules", path, "--json", home=own_copy.settings.home).out)
        for who in (customer, other, "somebody-new")
    ]
    assert [len(one["recommendations"]) for one in shown] == [10, 0, 0]
