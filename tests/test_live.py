"""``live.json``: publish, roll back, refuse what is not whole; what serves goes on serving."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

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


def follower(tmp_path: Path, bundles: Path, clock: Clock | None = None) -> Follower:
    def make(version: str) -> Recommender:
        return Recommender(load(bundles, version), FrameReader({}))

    path = tmp_path / "live.json"
    return Follower(path, "default", make, poll_seconds=0.02, monotonic=clock or Clock())


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
