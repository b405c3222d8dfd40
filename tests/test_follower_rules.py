"""Rules under a follower: taken up and dropped, refused where they do not fit, of variants, and never left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from feature_repo import names as v
from serving import live
from serving.bundle import load
from serving.features import CustomerState, FrameReader
from serving.follower import Follower
from serving.recommender import Query, Recommender
from serving.rules import load_rules
from tests.builders import AT
from tests.test_bundle import stored
from tests.test_live import Clock, experiments

CAP = '[[cap]]\nname = "few"\nat_most = {}\n'
UNFIT = '[[cap]]\nname = "shoes"\ncategory = ["shoes"]\nat_most = 1\n'


class Home:
    """A home with two bundles, the first of which is live, and who follows it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.versions = [stored(path / "bundles", seed)[1] for seed in (0, 1)]
        self.loaded: list[str] = []
        self.renamed: dict[str, str] = {}
        self.rules, self.experiments = path / "rules.toml", path / "experiments.toml"
        self.ups: list[tuple[str, bool]] = []
        self.clock = Clock()
        self.publish(0)

    def publish(self, number: int) -> None:
        live.publish(self.path / "live.json", "default", self.versions[number])

    def load(self, version: str) -> Recommender:
        self.loaded.append(version)
        bundle = load(self.path / "bundles", version)
        if version in self.renamed:
            bundle.catalog.frame["category"] = self.renamed[version]
        return Recommender(bundle, FrameReader({}))

    def follower(self, **given: Any) -> Follower:
        return Follower(
            self.path / "live.json",
            "default",
            self.load,
            poll_seconds=0.02,
            rules=self.rules,
            experiments=self.experiments,
            monotonic=self.clock,
            rules_up=lambda is_up: self.ups.append(("rules", is_up)),
            experiments_up=lambda is_up: self.ups.append(("experiments", is_up)),
            **given,
        )


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def digests(following: Follower) -> tuple[int, str | None]:
    assert following.current is not None
    held = following.current.live
    return held.bundle.manifest.seed, held.digest


def test_rules_come_change_and_go_and_nothing_is_loaded_anew(home: Home) -> None:
    following = home.follower()
    following.look()
    assert digests(following)[1] is None
    seen = set()
    for most in (1, 2):
        home.rules.write_text(CAP.format(most))
        following.look()
        assert following.current is not None
        rules = following.current.live.rules
        assert rules is not None and rules.file.cap[0].at_most == most
        seen.add(rules.digest)
        held = following.current
        home.rules.write_text("# the same\n" + CAP.format(most))
        following.look()
        assert following.current is held, "a comment changes no rule"
    assert len(seen) == 2
    home.rules.unlink()
    following.look()
    assert digests(following)[1] is None
    assert home.loaded == home.versions[:1]


@pytest.mark.parametrize("broken", ["[[cap", '[[cap]]\nname = "x"\n', UNFIT, '[[prices]]\nname = "x"\n'])
def test_broken_and_unfit_rules_leave_the_old_ones_and_hold_up_nothing(
    home: Home, broken: str, caplog: pytest.LogCaptureFixture
) -> None:
    home.rules.write_text(CAP.format(1))
    following = home.follower()
    following.look()
    _, good = digests(following)
    home.rules.write_text(broken)
    for _ in range(3):
        following.look()
        assert digests(following) == (0, good)
    assert "rules.toml" in following.problem
    assert len(caplog.messages) == 1, "told once"
    assert home.ups[-2:] == [("rules", False), ("experiments", True)]
    home.publish(1)
    following.look()
    assert digests(following) == (1, good), "a bundle is taken up under the rules that hold"
    experiments(home.experiments, home.versions[0])
    following.look()
    assert following.current is not None
    assert following.current.recommenders[home.versions[0]].digest == good
    home.rules.write_text(CAP.format(2))
    following.look()
    assert following.problem == ""
    assert digests(following)[1] not in (None, good)
    assert home.ups[-2:] == [("rules", True), ("experiments", True)]


def test_a_worker_that_starts_with_broken_rules_serves_nothing_until_they_are_corrected(home: Home) -> None:
    following = home.follower()
    for broken in ("[[cap", UNFIT):
        home.rules.write_text(broken)
        following.look()
        assert following.current is None, "what rules forbid is never shown"
        assert "rules.toml" in following.problem
        assert home.ups[-2][1] is False
    home.rules.write_text(CAP.format(1))
    following.look()
    assert following.problem == ""
    assert digests(following)[1] is not None


def test_a_bundle_that_the_rules_do_not_fit_is_not_taken_up(home: Home) -> None:
    home.rules.write_text(CAP.format(1).replace("at_most", 'category = ["only"]\nat_most'))
    home.renamed[home.versions[0]] = "only"
    following = home.follower()
    following.look()
    _, digest = digests(following)
    home.publish(1)
    following.look()
    assert digests(following) == (0, digest)
    assert f"{home.versions[1]} under" in following.problem and 'found "only"' in following.problem
    home.rules.write_text(CAP.format(3))
    following.look()
    assert digests(following)[0] == 1, "both change together"
    assert following.problem == ""


def test_rules_of_variants_are_read_beside_the_experiments_and_followed(home: Home) -> None:
    first, second = home.versions
    experiments(home.experiments, second)
    with home.experiments.open("a") as file:
        file.write('rules = "own/few.toml"\n')
    home.rules.write_text(CAP.format(3))
    following = home.follower()
    following.look()
    assert following.current is not None and not following.current.experiments.experiments
    assert "few.toml" in following.problem and "write it" in following.problem
    own = home.path / "own" / "few.toml"
    own.parent.mkdir()
    for text, fits in ((CAP.format(1), True), (CAP.format(2), True), ("[[", False), (UNFIT, False)):
        own.write_text(text)
        held = following.current
        following.look()
        assert (following.problem == "") == fits
        assert (following.current is held) == (not fits)
        served = following.current
        other, control = served.forced("other"), served.forced("control")
        assert other is not None and control is not None
        assert other.recommender.rules is not None and control.recommender.rules is not None
        assert other.recommender.rules.file.cap[0].at_most == min(2, 1 + (text != CAP.format(1)))
        assert control.recommender.rules.file.cap[0].at_most == 3
        assert (other.recommender.bundle.version, control.recommender.bundle.version) == (second, first)
        assert f"rules of one/other {other.recommender.digest}" in served.lines
    own.write_text(CAP.format(5))
    following.look()
    assert following.problem == ""
    assert sorted(home.loaded) == sorted(home.versions), "each once"


def test_hard_rules_that_a_variant_drops_are_told_when_its_file_is_taken_up(
    home: Home, caplog: pytest.LogCaptureFixture
) -> None:
    """It stands in the place of the whole file, so what it lacks does not hold for its customers."""
    experiments(home.experiments, home.versions[0])
    with home.experiments.open("a") as file:
        file.write('rules = "own.toml"\n')
    price = '[[price]]\nname = "cheap"\nmax = {}\n'
    due = "[due]\npurchases = 4\n"
    home.rules.write_text(CAP.format(1) + price.format(15) + due)
    own = home.path / "own.toml"
    said = {
        CAP.format(2): "one/other is not bound by price 'cheap', due of rules.toml: its own own.toml stands",
        price.format(90)
        + "[due]\npurchases = 2\n": "price 'cheap' (which it has otherwise), due (which it has oth",
        CAP.format(2) + price.format(15).replace("cheap", "another name") + due: None,
    }
    following = home.follower()
    for text, told in said.items():
        own.write_text(text)
        caplog.clear()
        following.look()
        warned = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        assert following.problem == ""
        assert len(warned) == (told is not None)
        assert told is None or told in warned[0]


def test_one_bundle_under_two_sets_of_rules_keeps_no_order_of_the_other(home: Home) -> None:
    """A state is remembered by its reader, which both share; what rules allow must not come from there."""
    customer = CustomerState({v.SEGMENT: ""}, memo={})
    recommender = Recommender(load(home.path / "bundles", home.versions[0]), FrameReader({"c": customer}))
    query = Query(at=AT, customer_id="c", n=8)
    plain = recommender.recommend([query])[0].product_ids
    home.rules.write_text(f'[[price]]\nname = "not the first"\nproduct_id = ["{plain[0]}"]\nmax = 0\n')
    strict = recommender.with_rules(load_rules(home.rules, recommender.bundle))
    for _ in range(2):
        assert plain[0] not in strict.recommend([query])[0].product_ids
        assert recommender.recommend([query])[0].product_ids == plain


def test_the_holdout_obeys_hard_rules_and_no_others(home: Home) -> None:
    recommender = Recommender(load(home.path / "bundles", home.versions[0]), FrameReader({}))
    query = Query(at=AT, customer_id="c00", n=8, purchased="allow")
    plain = recommender.fallback().recommend([query])[0].product_ids
    home.rules.write_text(
        f'[[price]]\nname = "not the first"\nproduct_id = ["{plain[0]}"]\nmax = 0\n'
        f'[[pin]]\nname = "last first"\nproduct_id = "{plain[-1]}"\nslot = 1\n'
    )
    home.experiments.write_text("holdout = 0.999999")
    following = home.follower()
    following.look()
    assert following.current is not None
    choice, answer = following.current.recommend([query])[0]
    assert choice.variant == "fallback"
    assert answer.product_ids[:7] == plain[1:]
    assert choice.recommender.digest == following.current.live.digest
