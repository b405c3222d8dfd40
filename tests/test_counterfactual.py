"""A bundle valued from another one's log: a planted truth to be found, one's own value, and logs that cannot tell."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from eval.experiment.counterfactual import (
    PICK,
    PLACE,
    REWARD,
    SUPPORTED,
    UNIT,
    USUAL,
    AskedCounterfactual,
    LeftOut,
    expected_rewards,
    value_slots,
    weight_of_usual,
)
from eval.experiment.counterfactual_results import CounterfactualReading
from eval.experiment.pages import render_reading
from eval.experiment.replay import is_chancy, pool, replayed
from feature_repo import schema as s
from feature_repo.errors import ConfigError, DataError
from feature_repo.store import open_store
from serving.bundle import Bundle, load, save
from serving.features import FrameReader
from serving.recommender import Query, Recommender
from serving.rules import load_rules
from serving.rules.config import RulesFile
from tests.builders import AS_OF
from tests.planted_slots import EPSILON, FILE, Planted, bundles, planted_log, under_rules
from tests.test_cli import Run, run
from tests.tiny_shop import Shop as TinyShop
from training.counterfactual import Logged, check_ripe, logged_slots
from training.dataset import states_at
from training.logged_bundles import Recommenders, rules_hash, target_of

__all__ = ["run"]

REQUESTS = 4000
NOW = pd.Timestamp(AS_OF) + pd.Timedelta(days=20)


class Shop:
    """Two bundles on disk, and a log of the first."""

    def __init__(self, place: Path, requests: int = REQUESTS) -> None:
        self.place = place
        first, second = bundles()
        self.logged, self.other = (
            replace(bundle, version=save(bundle, place, texts={})) for bundle in (first, second)
        )
        self.log = planted_log(self.logged, requests=requests)

    def slots(self, bundle: Bundle, log: Planted | None = None, **options: object) -> Logged:
        held = log or self.log
        return logged_slots(
            held.exposures,
            held.interactions,
            AskedCounterfactual(bundle.tag),
            Recommenders(self.place, [FILE]),
            held.rows,
            now=NOW.to_pydatetime(),
            window_days=7,
            **options,  # type: ignore[arg-type]
        )

    def value(self, bundle: Bundle, log: Planted | None = None, **options: object) -> CounterfactualReading:
        return valued(self.slots(bundle, log, **options), bundle.tag)


def valued(found: Logged, tag: str, **options: object) -> CounterfactualReading:
    asked = AskedCounterfactual(tag, resamples=400, **options)  # type: ignore[arg-type]
    return value_slots(
        found.slots,
        asked,
        found.left_out,
        usual_weight=found.usual_weight,
        name="live",
        now=NOW,
        window_days=7,
    )


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return Shop(tmp_path_factory.mktemp("bundles"))


@pytest.fixture(scope="module")
def found(shop: Shop) -> Logged:
    return shop.slots(shop.other)


def test_every_answer_comes_out_again_and_the_pool_is_as_large_as_its_chances_say(shop: Shop) -> None:
    several = RulesFile.model_validate(
        {
            "cap": [{"name": "two", "at_most": 2, "category": ["tea"]}, {"name": "three", "at_most": 3}],
            "diversity": [{"name": "mixed", "lambda": 0.6}],
            "pin": [{"name": "first", "product_id": shop.logged.catalog.ids[4], "slot": 1}],
            "new": [{"name": "fresh", "at_least": 1, "days": 200}],
            "explore": [{"name": "some", "slots": [2, 5, 6], "epsilon": 0.5}],
        }
    )
    index = shop.logged.catalog.index
    explored = 0
    for file in (FILE, several):
        logged, target = under_rules(shop.logged, file), under_rules(shop.other, file)
        epsilon = file.explore[0].epsilon
        for number in range(150):
            customer = f"c{number % 12:02d}"
            held = shop.log.states[customer]
            query = Query(at=AS_OF + timedelta(days=1), customer_id=customer, n=7, request_id=f"q{number}")
            items = logged.answer(query, held).items
            shown = [(item.product_id, item.propensity or 0.0) for item in items]
            slots = replayed(logged, target, query, held, shown)
            assert slots is not None
            sure = replace(query, request_id=None)
            usual = logged.answer(sure, held).product_ids
            for one in slots:
                others = [name for name, _ in shown[: one.place]] + usual[one.place + 1 :]
                eligible = pool(logged, sure, held, [index[name] for name in others])
                eligible[index[one.usual]] = True
                size = int(eligible.sum())
                greedy = one.shown == one.usual
                assert one.propensity == pytest.approx(epsilon / size + (1 - epsilon if greedy else 0))
                assert eligible[index[one.shown]]
                assert one.pick is not None and one.pick not in others
                assert one.supported == bool(eligible[index[one.pick]])
                explored += not greedy
            moved = [(shown[0][0], shown[0][1] * 0.5), *shown[1:]]
            assert replayed(logged, target, query, held, moved) is None
            assert replayed(logged, target, query, held, shown[:-1]) is None
    assert explored > 100


def test_the_true_value_of_another_bundle_lies_in_all_three_intervals(shop: Shop, found: Logged) -> None:
    assert (found.left_out.gone, found.left_out.unrebuilt) == (0, 0)
    assert len(found.slots) == REQUESTS
    told = valued(found, shop.other.tag)
    counts = told.counts
    assert counts.same < 0.5 and counts.rewarded >= 20 and counts.unsupported < 0.1
    supported = found.slots[found.slots[SUPPORTED]]
    truth = float(supported[PICK].map(shop.log.truth).mean())
    usual = float(supported[USUAL].map(shop.log.truth).mean())
    assert abs(truth - usual) > 0.05  # else there would be nothing to find
    assert told.target is not None and told.usual is not None and told.difference is not None
    for way in ("ips", "snips", "dr"):
        for value, wanted in ((told.target, truth), (told.usual, usual), (told.difference, truth - usual)):
            one = getattr(value, way)
            # one and a half half-widths: nine intervals of 95 % hold together less often than one
            assert abs(one.mean - wanted) < 1.5 * (one.high - one.low) / 2, (way, one, wanted)
    assert told.difference.dr.low * told.difference.dr.high > 0
    assert (told.verdict.decision == "try") == (truth > usual)


def test_the_own_bundle_earns_what_was_shown_without_chance(shop: Shop) -> None:
    found = shop.slots(shop.logged)
    assert (found.slots[PICK] == found.slots[USUAL]).all() and found.slots[SUPPORTED].all()
    told = valued(found, shop.logged.tag)
    assert told.counts.same == 1 and told.verdict.decision == "keep"
    assert "would show the same in all" in told.verdict.sentence
    assert told.difference is not None and told.target is not None and told.logged is not None
    for way in ("ips", "snips", "dr"):
        one = getattr(told.difference, way)
        assert (one.mean, one.low, one.high) == (0, 0, 0)
    # what was logged is the own policy in all but a share ε of the slots, and anything there
    truth = found.slots[USUAL].map(shop.log.truth).mean()
    anything = np.mean(list(shop.log.truth.values()))
    blended = (1 - EPSILON) * truth + EPSILON * anything
    assert told.logged.mean == pytest.approx(blended, abs=0.05)
    assert told.target.ips.low < truth < told.target.ips.high


def test_a_log_whose_chances_are_wrong_is_refused(shop: Shop) -> None:
    """Chances of another epsilon, and answers that are lost where chance decided."""
    rows = shop.log.exposures
    chancy = rows[s.PROPENSITY].map(is_chancy)
    wrong = rows.assign(**{s.PROPENSITY: rows[s.PROPENSITY].where(~chancy, rows[s.PROPENSITY] * 0.9)})
    lost = rows[rows["source"] == "explore"][s.REQUEST_ID].iloc[::3]
    for exposures in (wrong, rows[~rows[s.REQUEST_ID].isin(lost)]):
        told = shop.value(shop.other, replace(shop.log, exposures=exposures))
        assert told.verdict.decision == "distrust" and told.target is None
        assert "chances cannot be right" in told.verdict.sentence
        page = render_reading(told)
        assert "<b>No.</b>" in page and "doubly robust</th>" not in page


def test_right_chances_are_refused_as_rarely_as_promised() -> None:
    rng = np.random.default_rng(0)
    repetitions = 2000
    alarms = 0
    for _ in range(repetitions):
        p = np.where(rng.random(600) < 0.5, 0.7, 0.9)
        units = rng.integers(200, size=600)
        alarms += weight_of_usual(p, rng.random(600) < p, units)[1] < 0.005
    # four standard errors of .005 over 2,000, and a little for normal tails
    assert alarms / repetitions < 0.005 + 4 * np.sqrt(0.005 / repetitions)


def test_a_log_that_is_too_young_is_refused_before_anything_is_built(shop: Shop) -> None:
    asked = AskedCounterfactual(shop.other.tag)
    first = shop.log.exposures[s.AT].min()

    def check(days: float, window: int, *, immature: bool = False) -> None:
        now = (first + pd.Timedelta(days=days)).to_pydatetime()
        check_ripe(shop.log.exposures, asked, now=now, window_days=window, immature=immature)

    over = first + pd.Timedelta(days=7)
    with pytest.raises(
        DataError, match=f"7 days are over .* the first are over at {over:%Y-%m-%d %H:%M} UTC, give --w"
    ):
        check(2.5, 7)
    with pytest.raises(DataError, match=r"first are over at [-0-9]+ [:0-9]+ UTC, or add --immature"):
        check(0.5, 1)  # no window is shorter
    check(2.5, 7, immature=True)
    check(7.5, 7)


def test_requests_that_cannot_be_made_again_are_left_out_and_counted(shop: Shop) -> None:
    top = shop.slots(shop.logged).slots[USUAL].mode()[0]
    hidden = planted_log(shop.logged, requests=300, seed=9, exclude=[top])
    found = shop.slots(shop.other, hidden)
    assert 0 < found.left_out.unrebuilt <= 30
    assert len(found.slots) + found.left_out.unrebuilt == 300
    told = valued(found, shop.other.tag)
    assert any("do not come out as they were logged" in reason for reason in told.verdict.reasons)


def test_requests_whose_conditions_are_logged_are_made_again(shop: Shop) -> None:
    """What was excluded is in no pool, and no pick of the other bundle."""
    top = shop.slots(shop.logged).slots[USUAL].mode()[0]
    found = shop.slots(shop.other, planted_log(shop.logged, requests=300, seed=9, exclude=[top], told=True))
    assert found.left_out.unrebuilt == 0 and len(found.slots) == 300
    excluded = found.slots[found.slots[s.REQUEST_ID].map(lambda name: int(name.split("-")[1]) % 10 == 0)]
    assert len(excluded) == 30
    assert not (excluded[[USUAL, PICK, s.PRODUCT_ID]] == top).any(axis=None)


def test_answers_of_bundles_and_rules_that_are_gone_are_left_out(shop: Shop) -> None:
    rows = shop.log.exposures.head(500).copy()
    some = rows[s.REQUEST_ID].isin(rows[s.REQUEST_ID].unique()[:40])
    gone = rows.assign(bundle=rows["bundle"].mask(some, "nextbest:202001010000-000000000000"))
    found = shop.slots(shop.other, replace(shop.log, exposures=gone))
    assert (found.left_out.gone, len(found.slots)) == (40, 60)
    digest = rules_hash(FILE)[:12]
    ruled = rows.assign(rules=pd.Series(digest, index=rows.index).mask(some, "0123456789ab"))
    assert shop.slots(shop.other, replace(shop.log, exposures=ruled)).left_out.gone == 40
    young = logged_slots(
        rows, shop.log.interactions, AskedCounterfactual(shop.other.tag), Recommenders(shop.place, [FILE]),
        shop.log.rows, now=AS_OF + timedelta(days=2), window_days=7,
    )  # fmt: skip
    assert (young.left_out.immature, len(young.slots)) == (100, 0)
    with pytest.raises(DataError, match="100 too young"):
        valued(young, shop.other.tag)
    with pytest.raises(ConfigError, match="tag of a bundle"):
        target_of(shop.place, "nextbest:none")


def test_what_was_never_in_the_pool_is_refused(shop: Shop, tmp_path: Path) -> None:
    first, second = bundles()
    frame = second.catalog.frame.copy()
    frame[s.PRODUCT_ID] = ["x" + name for name in frame[s.PRODUCT_ID]]  # another shop's products
    foreign = replace(second, catalog=type(second.catalog)(frame))
    place = tmp_path / "bundles"
    tags = [f"nextbest:{save(bundle, place, texts={})}" for bundle in (first, foreign)]
    log = planted_log(replace(first, version=tags[0].split(":")[1]), requests=50)
    found = logged_slots(
        log.exposures, log.interactions, AskedCounterfactual(tags[1]), Recommenders(place, [FILE]), log.rows,
        now=NOW.to_pydatetime(), window_days=7,
    )  # fmt: skip
    assert not found.slots[SUPPORTED].any()
    with pytest.raises(DataError, match=r"100\.0% outside"):
        valued(found, tags[1])


def test_what_cannot_be_read_is_refused_in_a_sentence(shop: Shop, found: Logged) -> None:
    sure = shop.log.exposures.assign(**{s.PROPENSITY: 1.0})
    with pytest.raises(DataError, match="found none; let a rule explore"):
        shop.slots(shop.other, replace(shop.log, exposures=sure))
    with pytest.raises(DataError, match="found no propensity"):
        shop.slots(shop.other, replace(shop.log, exposures=sure.drop(columns=s.PROPENSITY)))
    few = replace(found, slots=found.slots.head(10), left_out=LeftOut(unrebuilt=11))
    with pytest.raises(DataError, match="found 10 of 21 slots"):
        valued(few, shop.other.tag)
    one = replace(found, slots=found.slots[found.slots[UNIT] == found.slots[UNIT].iloc[0]])
    with pytest.raises(DataError, match="at least two customers"):
        valued(one, shop.other.tag)
    for wrong, told in (
        ({"metric": "joy"}, "with --counterfactual"),
        ({"clip": 0.0}, "positive largest weight"),
        ({"confidence": 1.0}, "between 0 and 1"),
    ):
        with pytest.raises(ConfigError, match=told):
            AskedCounterfactual("nextbest:x", **wrong)  # type: ignore[arg-type]


def drawn(
    rounds: int, seed: int, *, products: int = 8, epsilon: float = 0.5
) -> tuple[pd.DataFrame, float, float]:
    """Return slots made without a recommender, in which the bundle picks as well as is usual: neither is better."""
    rng = np.random.default_rng(seed)
    truth = np.linspace(0.05, 0.6, products)
    usual, pick = rng.integers(products, size=(2, rounds)).clip(0, products - 1)
    pick = np.where(rng.random(rounds) < 0.5, usual, pick)
    explored = rng.random(rounds) < epsilon
    shown = np.where(explored, rng.integers(products, size=rounds), usual)
    unit = rng.integers(rounds // 3, size=rounds)
    mood = rng.uniform(0.5, 1.5, rounds)[unit]
    return pd.DataFrame(
        {
            UNIT: unit,
            s.AT: NOW,
            PLACE: 0,
            s.PRODUCT_ID: shown,
            s.PROPENSITY: epsilon / products + np.where(shown == usual, 1 - epsilon, 0),
            USUAL: usual,
            PICK: pick,
            SUPPORTED: True,
            REWARD: (rng.random(rounds) < np.minimum(truth[shown] * mood, 1)).astype(float),
        }
    )


@pytest.mark.slow
def test_the_difference_is_in_the_interval_as_often_as_promised() -> None:
    repetitions = 300
    held = dict.fromkeys(("ips", "snips", "dr"), 0)
    alarms = 0
    for seed in range(repetitions):
        frame = drawn(1500, seed)
        told = valued(Logged(frame, LeftOut(), (1.0, 1.0)), "nextbest:x")
        if told.difference is None:
            alarms += 1
            continue
        for way in held:
            one = getattr(told.difference, way)
            held[way] += one.low <= 0 <= one.high
    assert alarms <= 0.005 * repetitions + 4 * np.sqrt(0.005 * repetitions)
    for way, count in held.items():
        # four standard errors of a coverage of .95, and a point for 400 resamples and percentile ends
        bound = 0.01 + 4 * np.sqrt(0.95 * 0.05 / repetitions)
        assert count / (repetitions - alarms) == pytest.approx(0.95, abs=bound), way


def test_few_successes_of_picks_give_no_interval() -> None:
    frame = drawn(60, 1)
    told = valued(Logged(frame, LeftOut(), (1.0, 1.0)), "nextbest:x")
    assert told.verdict.decision == "go on" and "20 are needed" in told.verdict.sentence
    assert "Too few of its picks" in render_reading(told)


def test_clipping_bounds_weights_and_is_told() -> None:
    frame = drawn(3000, 2)
    plain, clipped = (
        valued(Logged(frame, LeftOut(), (1.0, 1.0)), "nextbest:x", clip=clip) for clip in (None, 2.0)
    )
    assert plain.counts.clipped == 0 < clipped.counts.clipped
    assert clipped.counts.effective > plain.counts.effective
    assert "weights that were bounded" in render_reading(clipped)


def test_expected_rewards_have_not_seen_their_own_customer() -> None:
    frame = drawn(300, 3)
    changed = frame.copy()
    own = frame[UNIT] == frame[UNIT].iloc[17]
    changed.loc[own, REWARD] += 100
    before, after = (expected_rewards(one, [PICK])[0] for one in (frame, changed))
    assert (before[own] == after[own]).all()
    assert (before != after).any()


RULES = """
[[explore]]
name = "third"
slots = [3]
epsilon = 0.9
"""


def test_the_command_values_a_bundle_by_the_tables_and_features_as_they_were(
    run: Run, ready: TinyShop, tmp_path: Path
) -> None:
    """Answers in the past of the tables, from features joined point in time; later clicks make features stale."""
    shop = ready.copy(tmp_path)
    settings, home = shop.settings, shop.settings.home
    (home / "rules.toml").write_text(RULES)
    assert shop.live is not None
    tag = f"nextbest:{shop.live}"
    bundle = load(settings.bundles, shop.live)
    held = pd.read_parquet(shop.tables / "interactions.parquet")
    customers = held["customer_id"].dropna().unique()
    last = held["at"].max()
    rng = np.random.default_rng(0)
    keys = pd.DataFrame({s.CUSTOMER_ID: rng.choice(customers, 400)})
    keys[s.EVENT_TIMESTAMP] = last - pd.to_timedelta(rng.random(400) * 20, unit="D").floor("us")
    keys[s.EVENT_TIMESTAMP] = keys[s.EVENT_TIMESTAMP].astype("datetime64[us, UTC]")
    rows = states_at(open_store(settings.store), keys)
    reader = FrameReader.from_frame(rows.assign(customer_id=[str(i) for i in range(400)]))
    recommender = Recommender(bundle, reader, load_rules(home / "rules.toml", bundle))
    shown, clicks = [], []
    for number, (customer, at) in enumerate(keys.itertuples(index=False)):
        query = Query(at=at.to_pydatetime(), customer_id=customer, n=4, request_id=f"r{number}")
        answer = recommender.answer(query, reader.read([str(number)], query.at)[0])
        for place, item in enumerate(answer.items, start=1):
            shown.append(
                (
                    query.request_id,
                    at,
                    customer,
                    None,
                    None,
                    tag,
                    place,
                    item.product_id,
                    item.source,
                    item.propensity,
                )
            )
            if rng.random() < 0.3:
                clicks.append(
                    (customer, item.product_id, last + timedelta(hours=1), s.CLICK, 0.0, query.request_id)
                )
    names = [
        "request_id",
        "at",
        "customer_id",
        "experiment",
        "variant",
        "bundle",
        "position",
        "product_id",
        "source",
    ]
    pd.DataFrame(shown, columns=[*names, "propensity"]).astype(
        {"experiment": object, "variant": object}
    ).to_parquet(shop.tables / "exposures.parquet")
    more = pd.DataFrame(clicks, columns=["customer_id", "product_id", "at", "kind", "value", "request_id"])
    pd.concat([held, more], ignore_index=True).to_parquet(shop.tables / "interactions.parquet")

    asked = (
        "experiment",
        "live",
        "--tables",
        shop.tables,
        "--counterfactual",
        tag,
        "--window",
        "30",
        "--immature",
    )
    done = run(*asked, "--json", home=home)
    assert done.code == 0, done.err
    told = json.loads(done.out)
    assert told["kind"] == "counterfactual" and told["counts"]["same"] == 1.0
    assert (told["counts"]["slots"], told["counts"]["unrebuilt"], told["counts"]["gone"]) == (400, 0, 0)
    assert 0.2 < told["logged"]["mean"] < 0.4
    words = run(*asked)
    assert words.out.startswith(f"Keep what is shown now: {tag} would show the same in all")
    assert "What would nextbest:" in Path(words.out.splitlines()[-1].removeprefix("report: ")).read_text()
    for wrong, wanted in (
        (("live", "--counterfactual", "nextbest:none"), f"(there are: {tag}), found 'nextbest:none'"),
        (("live", "--counterfactual", tag, "--metric", "purchases per exposure"), "with --counterfactual"),
        (("live", "--counterfactual", tag, "--rules", tmp_path / "none.toml"), "found no such file"),
        (("live", "--clip", "3"), "expected --counterfactual BUNDLE with live"),
        (("other", "--counterfactual", tag), "found none; correct the name"),
    ):
        refused = run("experiment", *wrong, "--tables", shop.tables)
        assert refused.code == 2 and wanted in refused.err, (wrong, refused)
    exposures = pd.read_parquet(shop.tables / "exposures.parquet")
    exposures.assign(experiment="trial", variant="control").to_parquet(shop.tables / "exposures.parquet")
    none = run(*asked)
    assert none.code == 2 and "found none; correct the name" in none.err
    trial = json.loads(run("experiment", "trial", *asked[2:], "--control", "control", "--json").out)
    assert trial["setting"]["variant"] == "control" and trial["counts"]["slots"] == 400
