"""``live.json``: publish, roll back, refuse what is not whole; what serves goes on serving."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest

from serving import live
from serving.bundle import load
from serving.errors import BundleError, ConfigError
from serving.features import FrameReader
from serving.follower import Follower
from serving.live import Live
from serving.recommender import Recommender
from tests.test_bundle import stored


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, list[str]]:
    bundles = tmp_path / "bundles"
    return bundles, [stored(bundles, seed)[1] for seed in (0, 1)]


class Clock:
    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def follower(tmp_path: Path, bundles: Path, clock: Clock | None = None, **given: Any) -> Follower:
    def make(version: str) -> Recommender:
        return Recommender(load(bundles, version), FrameReader({}))

    path = tmp_path / "live.json"
    return Follower(path, "default", make, poll_seconds=0.02, monotonic=clock or Clock(), **given)


def test_publish_and_roll_back(tmp_path: Path) -> None:
    path = tmp_path / "live.json"
    assert Live.read(path).version("default") is None
    for version in ("v1", "v2", "v2", "v3"):
        live.publish(path, "default", version)
    assert Live.read(path).version("default") == "v3"
    assert live.rollback(path, "default") == ("nextbest:v3", "nextbest:v2")
    assert live.rollback(path, "default") == ("nextbest:v2", "nextbest:v1")
    with pytest.raises(ConfigError, match="expected an earlier bundle"):
        live.rollback(path, "default")
    assert Live.read(path).version("default") == "v1"


def test_slots_do_not_disturb_each_other(tmp_path: Path) -> None:
    path = tmp_path / "live.json"
    live.publish(path, "default", "v1")
    live.publish(path, "tests", "v9")
    assert Live.read(path).version("default") == "v1"
    assert Live.read(path).version("tests") == "v9"


def test_publishers_at_the_same_time_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "live.json"
    threads = [threading.Thread(target=live.publish, args=(path, f"slot{i}", f"v{i}")) for i in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {slot: held.live for slot, held in Live.read(path).slots.items()} == {
        f"slot{i}": f"nextbest:v{i}" for i in range(12)
    }


@pytest.mark.parametrize("text", ["", "{", '{"slots": 3}', '{"slots": {}, "more": 1}'])
def test_an_unreadable_file_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "live.json").write_text(text)
    with pytest.raises(BundleError, match=r"expected slots in .*live\.json"):
        Live.read(tmp_path / "live.json")


def test_follower_takes_up_what_is_published(tmp_path: Path, two: tuple[Path, list[str]]) -> None:
    bundles, versions = two
    following = follower(tmp_path, bundles)
    following.look()
    assert following.current is None
    assert "nextbest train" in following.problem
    for version in versions:
        live.publish(tmp_path / "live.json", "default", version)
        following.look()
        assert following.current is not None
        assert following.current.live.bundle.version == version
    live.rollback(tmp_path / "live.json", "default")
    following.look()
    assert following.current.live.bundle.version == versions[0]


def test_an_empty_slot_is_told_once_with_those_there_are(
    tmp_path: Path, two: tuple[Path, list[str]], caplog: pytest.LogCaptureFixture
) -> None:
    bundles, versions = two
    following = follower(tmp_path, bundles)
    live.publish(tmp_path / "live.json", "blue", versions[0])
    for _ in range(3):
        following.look()
    assert following.current is None
    (told,) = caplog.messages
    assert "the slot 'default', found slots 'blue' only; correct NEXTBEST_SLOT" in told
    live.publish(tmp_path / "live.json", "default", versions[0])
    following.look()
    assert following.current is not None


def test_follower_refuses_a_corrupt_bundle_and_recovers(tmp_path: Path, two: tuple[Path, list[str]]) -> None:
    bundles, (good, bad) = two
    path = tmp_path / "live.json"
    live.publish(path, "default", good)
    clock = Clock()
    following = follower(tmp_path, bundles, clock)
    following.look()
    shutil.copytree(bundles / bad, tmp_path / "kept")
    (bundles / bad / "bundle" / "popular.npy").write_bytes(b"nonsense")
    live.publish(path, "default", bad)
    following.look()
    assert following.current is not None and following.current.live.bundle.version == good
    assert "popular.npy" in following.problem
    live.rollback(path, "default")
    following.look()
    assert following.problem == ""
    live.publish(path, "default", bad)
    following.look()
    shutil.rmtree(bundles / bad)
    shutil.copytree(tmp_path / "kept", bundles / bad)
    following.look()
    assert following.current.live.bundle.version == good, "left alone for a while"
    clock.seconds += 10
    following.look()
    assert following.current.live.bundle.version == bad, "then tried again"


def test_follower_outlives_whatever_loading_raises(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def explodes(version: str) -> Recommender:
        raise RuntimeError("something no one foresaw")

    live.publish(tmp_path / "live.json", "default", "v1")
    following = Follower(tmp_path / "live.json", "default", explodes, poll_seconds=0.02)
    for _ in range(3):
        following.look()
    assert following.current is None
    assert following.problem == "RuntimeError: something no one foresaw"
    assert len(caplog.records) == 1, "told once, not at every look"


def test_follower_outlives_a_broken_live_file(tmp_path: Path, two: tuple[Path, list[str]]) -> None:
    bundles, (first, second) = two
    path = tmp_path / "live.json"
    live.publish(path, "default", first)
    following = follower(tmp_path, bundles)
    following.look()
    path.write_text("{")
    following.look()
    assert following.current is not None and following.current.live.bundle.version == first
    path.unlink()
    live.publish(path, "default", second)
    following.look()
    assert following.current.live.bundle.version == second


def experiments(path: Path, version: str, *, name: str = "one", more: str = "") -> None:
    path.write_text(
        f'[[experiments]]\nname = "{name}"\n{more}\n'
        '[[experiments.variants]]\nname = "control"\nweight = 1\n'
        f'[[experiments.variants]]\nname = "other"\nweight = 1\nbundle = "nextbest:{version}"\n'
    )


@pytest.fixture
def experimenting(tmp_path: Path, two: tuple[Path, list[str]]) -> tuple[Follower, Path, list[str]]:
    """A follower of both files: the first bundle is live, there is no experiment yet, and it has looked."""
    bundles, versions = two
    live.publish(tmp_path / "live.json", "default", versions[0])
    path = tmp_path / "experiments.toml"
    following = follower(tmp_path, bundles, experiments=path)
    following.look()
    return following, path, versions


def test_experiments_come_and_go_with_their_bundles(experimenting: tuple[Follower, Path, list[str]]) -> None:
    following, path, (first, second) = experimenting
    before = following.current
    assert before is not None and set(before.recommenders) == {first}
    experiments(path, second)
    following.look()
    during = following.current
    assert during is not None and set(during.recommenders) == {first, second}
    assert during.live is before.live, "not loaded again"
    following.look()
    assert following.current is during, "nothing new, nothing made anew"
    path.unlink()
    following.look()
    after = following.current
    assert after is not None and set(after.recommenders) == {first}
    assert after.experiments.digest == "none"


def test_a_variant_that_becomes_live_is_not_loaded_again(
    experimenting: tuple[Follower, Path, list[str]], tmp_path: Path
) -> None:
    following, path, (_, second) = experimenting
    experiments(path, second)
    following.look()
    assert following.current is not None
    loaded = following.current.recommenders[second]
    live.publish(tmp_path / "live.json", "default", second)
    following.look()
    assert following.current.live is loaded
    assert set(following.current.recommenders) == {second}


@pytest.mark.parametrize("broken", ["[[experiments", "holdout = 2", "nobody"])
def test_broken_experiments_leave_the_old_ones_and_hold_up_no_rollback(
    experimenting: tuple[Follower, Path, list[str]],
    tmp_path: Path,
    broken: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    following, path, (first, second) = experimenting
    experiments(path, second)
    following.look()
    assert following.current is not None
    good = following.current.experiments
    if broken == "nobody":
        experiments(path, "202601010000-nobody")
    else:
        path.write_text(broken)
    for _ in range(3):
        following.look()
    assert following.current.experiments is good
    assert "experiments.toml" in following.problem
    assert len(caplog.messages) == 1, "told once"
    live.publish(tmp_path / "live.json", "default", second)
    following.look()
    assert following.current.live.bundle.version == second
    assert following.current.experiments is good
    live.rollback(tmp_path / "live.json", "default")
    following.look()
    assert set(following.current.recommenders) == {first, second}
    experiments(path, second, name="corrected")
    following.look()
    assert following.problem == ""
    assert following.current.experiments.experiments[0].name == "corrected"


def test_a_broken_live_file_does_not_hold_up_experiments(
    experimenting: tuple[Follower, Path, list[str]], tmp_path: Path
) -> None:
    following, path, (first, second) = experimenting
    (tmp_path / "live.json").write_text("{")
    experiments(path, second)
    following.look()
    assert following.current is not None
    assert following.current.live.bundle.version == first
    assert set(following.current.recommenders) == {first, second}
    assert "live.json" in following.problem


def test_a_start_with_broken_experiments_serves_what_is_live(
    two: tuple[Path, list[str]], tmp_path: Path
) -> None:
    bundles, (first, second) = two
    live.publish(tmp_path / "live.json", "default", first)
    path = tmp_path / "experiments.toml"
    path.write_text("[[")
    up: list[bool] = []
    following = follower(tmp_path, bundles, experiments=path, experiments_up=up.append)
    following.look()
    assert following.current is not None and following.current.experiments.digest == "none"
    experiments(path, second)
    following.look()
    assert set(following.current.recommenders) == {first, second}
    assert up == [False, True]


def test_attributes_nobody_has_are_refused(two: tuple[Path, list[str]], tmp_path: Path) -> None:
    bundles, (first, second) = two
    live.publish(tmp_path / "live.json", "default", first)
    path = tmp_path / "experiments.toml"
    experiments(path, second, more='customers = {country = "DE"}')

    def attributes(names: Collection[str], live: Recommender) -> FrameReader:
        raise ConfigError(f"expected attributes of customers, found {sorted(names)}; correct it")

    following = follower(tmp_path, bundles, experiments=path, attributes=attributes)
    following.look()
    assert following.current is not None and following.current.experiments.digest == "none"
    assert "found ['country']" in following.problem
