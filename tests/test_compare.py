"""Two bundles side by side: what differs, and whether what was measured can be compared."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.tiny_shop import TINY, Shop, ready_shop
from training.backtest import Backtest, Verdict
from training.cli import main
from training.compare import Side, compare, compared
from training.recipe import Recipe, TrainConfig

OTHER = TrainConfig.parse(TINY.replace("epochs = 10", "epochs = 2"), "other.toml")


def challenger(result: Backtest, champion: Recipe | None) -> Verdict:
    return Verdict(result.recipes[0], "the first of the configuration")


def champion(result: Backtest, champion: Recipe | None) -> Verdict:
    assert champion is not None
    return Verdict(champion, "the champion stays")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """Live were: als of 10 epochs, then als of 2, then als of 2 again where 10 was asked for."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("training.train.gate", challenger)
        shop = ready_shop(tmp_path_factory.mktemp("compared"))
        shop.refresh(days=1, config=OTHER)
        patched.setattr("training.train.gate", champion)
        shop.refresh(days=2)
    return shop


@pytest.fixture(scope="module")
def tags(shop: Shop) -> list[str]:
    return sorted(f"nextbest:{path.name}" for path in shop.settings.bundles.iterdir())


@pytest.fixture(scope="module")
def sides(shop: Shop, tags: list[str]) -> list[Side]:
    return [Side.read(shop.settings.bundles, tag) for tag in tags]


def mean(
    side: Side, model: str, *, policy: str = "exclude", which: str = "all", metric: str = "ndcg"
) -> float:
    (found,) = [
        result["slices"][which][metric]["mean"]
        for result in side.metrics["results"]
        if (result["model"], result["purchased"], result["products"]) == (model, policy, "all")
    ]
    return float(found)


def row(told: dict[str, Any], **wanted: str) -> dict[str, Any]:
    asked = {"purchased": "exclude", "products": "all", "slice": "all", "metric": "ndcg@10", **wanted}
    (found,) = [one for one in told["metrics"][0]["rows"] if all(one[name] == asked[name] for name in asked)]
    return dict(found)


def test_recipes_judged_in_one_backtest_are_compared_there(
    shop: Shop, tags: list[str], sides: list[Side]
) -> None:
    told = compare(shop.settings.bundles, tags[0], tags[1])
    assert told["recipe"] == {"als.epochs": [10, 2]}
    assert told["same_data"]
    (window,) = told["metrics"]
    assert (window["of"], window["how"]) == (tags[1], "one backtest judged both")
    # the live recipe competed beside another of its name
    for policy in ("exclude", "allow"):
        found = row(told, purchased=policy)
        assert found["a"] == mean(sides[1], "als@live", policy=policy)
        assert found["b"] == mean(sides[1], "als", policy=policy)
        assert found["difference"] == pytest.approx(found["b"] - found["a"], abs=1e-9)
    assert "no intervals" in told["comparable"]
    assert told["a"]["bytes"]["all"] == sum(
        size for name, size in told["a"]["bytes"].items() if name != "all"
    )
    assert told["a"]["index"]["recall"] == sides[0].manifest.index["recall"]


def test_the_order_turns_the_sign(sides: list[Side]) -> None:
    there, back = compared(sides[0], sides[1]), compared(sides[1], sides[0])
    assert row(back)["difference"] == -row(there)["difference"] != 0
    assert back["metrics"][0]["of"] == there["metrics"][0]["of"] == sides[1].tag


def test_a_champion_that_stayed_is_known_by_its_name_in_the_backtest(sides: list[Side]) -> None:
    """The third bundle is of the recipe called als@live there; another als stands beside it."""
    assert sides[2].own() == "als@live"
    told = compared(sides[1], sides[2])
    assert told["recipe"] == {}
    found = row(told)
    assert told["metrics"][0]["how"] == "two backtests of the same window"
    assert found["a"] == mean(sides[1], "als") == found["b"] == mean(sides[2], "als@live")


def test_the_same_window_on_other_tables_says_so(sides: list[Side]) -> None:
    data = sides[2].manifest.data.model_copy(update={"tables_hash": "other"})
    other = replace(sides[2], manifest=sides[2].manifest.model_copy(update={"data": data}))
    told = compared(sides[1], other)
    assert not told["same_data"]
    assert told["metrics"][0]["how"] == "two backtests of the same window, on other tables"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"judged_until": "2030-01-01T00:00:00+00:00"}, "the recipe is the same"),
        ({"recipe": "nobody"}, "not comparable"),
        ({"results": []}, "not comparable"),
    ],
)
def test_what_cannot_be_compared_is_said_plainly(
    sides: list[Side], changes: dict[str, Any], why: str
) -> None:
    told = compared(sides[1], replace(sides[2], metrics={**sides[2].metrics, **changes}))
    assert told["metrics"] == []
    assert told["comparable"].startswith("not comparable: judged until ")
    assert why in told["comparable"] and "nextbest evaluate" in told["comparable"]


def test_other_customers_are_another_truth(sides: list[Side]) -> None:
    results = json.loads(json.dumps(sides[2].metrics["results"]))
    for result in results:
        result["slices"]["all"]["customers"] += 1
    told = compared(sides[1], replace(sides[2], metrics={**sides[2].metrics, "results": results}))
    assert told["metrics"] == []


def test_bundles_of_old_say_less(sides: list[Side]) -> None:
    """They named no recipe of their own: its name tells, unless the live one stood beside it under the same name."""
    old = [
        replace(side, metrics={k: v for k, v in side.metrics.items() if not k.startswith("recipe")})
        for side in sides
    ]
    assert [side.own() for side in old] == ["als", None, None]
    told = compared(old[0], old[1])
    assert told["metrics"] == [] and "neither backtest judged both" in told["comparable"]
    short = {key: value for key, value in sides[1].manifest.recipe.items() if key != "bpr"}
    of_old = replace(sides[1], manifest=sides[1].manifest.model_copy(update={"recipe": short}))
    assert compared(of_old, sides[2])["recipe"] == {}, "what was not known then is as by default"
    nothing = compared(replace(sides[0], metrics={}), sides[2])
    assert nothing["a"]["window"] == {"train_before": None, "judged_until": None}


@pytest.fixture
def run(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    monkeypatch.setenv("NEXTBEST_HOME", str(shop.settings.home))

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["nextbest", "models", *map(str, words)])
        code = 0
        try:
            main()
        except SystemExit as stopped:
            code = int(stopped.code or 0)
        told = capsys.readouterr()
        return code, told.out, told.err

    return call


def test_the_command(
    run: Callable[..., tuple[int, str, str]], tags: list[str], shop: Shop, tmp_path: Path
) -> None:
    code, out, _ = run("--compare", tags[0], tags[1].removeprefix("nextbest:"))
    assert code == 0
    for words in ("recipe: als.epochs", "the same", "B − A", "ndcg@10", "index: recall", "no intervals"):
        assert words in out
    assert json.loads(run("--compare", *tags[:2], "--json")[1]) == compare(shop.settings.bundles, *tags[:2])
    assert len(json.loads(run("--json")[1])) == 3
    for words in ([tags[0], "nextbest:nothing"], ["../..", tags[0]], ["", tags[0]]):
        code, _, err = run("--compare", *words)
        assert code == 2 and err.count("\n") == 1 and "nextbest models" in err
    assert run("--compare", tags[0])[0] == 2


def test_a_damaged_bundle_is_told(
    run: Callable[..., tuple[int, str, str]], tags: list[str], shop: Shop
) -> None:
    card = shop.settings.bundles / tags[2].partition(":")[2] / "bundle" / "MODEL_CARD.md"
    card.write_text(card.read_text() + "!")
    code, _, err = run("--compare", tags[0], tags[2])
    assert code == 2 and "MODEL_CARD.md" in err
