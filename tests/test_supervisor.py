"""Where workers keep their metrics: in memory, in a directory of their service's own that outlives it by one start."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from serving import supervisor
from serving.process import Service, running
from serving.settings import Settings
from serving.supervisor import MEMORY, PREFIX, metrics_directory


def test_the_directory_is_there_meanwhile_and_gone_afterwards(tmp_path: Path) -> None:
    with metrics_directory(tmp_path) as directory:
        assert directory is not None
        assert directory.parent == tmp_path
        assert not list(directory.iterdir())
        (directory / "counter_1.db").write_bytes(b"x")
    assert not list(tmp_path.iterdir())


def test_what_the_dead_left_is_removed_and_what_the_living_hold_stays(tmp_path: Path) -> None:
    left = tmp_path / f"{PREFIX}left"
    left.mkdir()
    (left / "counter_1.db").write_bytes(b"x")
    others = [tmp_path / "others", tmp_path / f"{PREFIX}file", tmp_path / f"{PREFIX}link"]
    others[0].mkdir()
    others[1].write_bytes(b"x")
    others[2].symlink_to(others[0])
    with metrics_directory(tmp_path) as first, metrics_directory(tmp_path) as second:
        assert first is not None and second is not None
        assert first != second
        assert first.is_dir() and second.is_dir()
        assert not left.exists()
    assert set(tmp_path.iterdir()) == set(others)


def test_without_room_in_memory_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with metrics_directory(tmp_path / "no such") as directory:
        assert directory is None
    monkeypatch.setattr(supervisor, "LEAST_FREE_BYTES", 2**62)
    with metrics_directory(tmp_path) as directory:
        assert directory is None
    assert not list(tmp_path.iterdir())


def kept_in(service: Service) -> Path:
    """Where the workers of a service keep their metrics."""
    (worker,) = service.workers
    lines = Path(f"/proc/{worker}/environ").read_bytes().split(b"\0")
    found = next(line for line in lines if line.startswith(b"PROMETHEUS_MULTIPROC_DIR="))
    return Path(found.partition(b"=")[2].decode())


@pytest.mark.skipif(not Path("/proc").is_dir() or not os.access(MEMORY, os.W_OK), reason="needs /dev/shm")
def test_a_service_leaves_nothing_in_memory_and_what_a_killed_one_leaves_goes_at_the_next_start(
    tmp_path: Path,
) -> None:
    settings = Settings.load(home=tmp_path)  # nothing is live in it, and metrics are there from the start
    with running(settings, wait="/livez") as service:
        ended = kept_in(service)
        assert ended.parent == MEMORY
        assert list(ended.glob("counter_*.db"))
    assert not ended.exists()
    with running(settings, wait="/livez") as service:
        killed = kept_in(service)
        service.process.kill()
        service.process.wait()
    with running(settings, wait="/livez") as service:
        assert not killed.exists()
        assert kept_in(service) != killed
    assert not list(settings.bentoml_home.glob("prometheus_multiproc_dir/*")), (
        "where BentoML by itself has them"
    )
