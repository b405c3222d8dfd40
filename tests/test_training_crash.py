"""A training run ended by ``kill -9`` at any point leaves what was live live, no half bundle, and can be run again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from serving.bundle import load, verify
from serving.live import Live
from serving.settings import Settings
from tests.conftest import Published

EVERY_MODEL = """
horizon_days = 28
k = 10
threads = 1
[[recipes]]
name = "spectral"
model = "spectral"
[[recipes]]
name = "two-tower"
model = "two_tower"
[recipes.two_tower]
factors = 16
epochs = 5
[[recipes]]
name = "lightfm"
model = "lightfm"
[recipes.lightfm]
epochs = 5
[[recipes]]
name = "blend"
model = "blend"
"""


def started(home: Path, tables: Path, config: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", "from training.cli import main; main()"]
    return subprocess.Popen(
        [*command, "train", str(tables), "--config", str(config)],
        env={**os.environ, "NEXTBEST_HOME": str(home)},
        cwd=Path(__file__).parents[1],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def live(settings: Settings) -> str:
    version = Live.read(settings.live).version(settings.slot)
    assert version is not None
    return version


@pytest.mark.slow
def test_a_killed_training_run_leaves_no_half_bundle_and_can_be_started_again(
    own_copy: Published, tmp_path: Path
) -> None:
    settings, config = own_copy.settings, tmp_path / "every.toml"
    config.write_text(EVERY_MODEL)
    start = time.monotonic()
    assert started(settings.home, own_copy.tables, config).wait(timeout=300) == 0
    whole = time.monotonic() - start
    first, killed = live(settings), 0
    for share in (0.4, 0.7, 0.85, 0.93, 0.98):
        process = started(settings.home, own_copy.tables, config)
        try:
            process.wait(timeout=whole * share)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            killed += 1
        process.communicate()
        assert load(settings.bundles, live(settings)).version == live(settings)
        for folder in settings.bundles.iterdir():
            if not folder.name.startswith("."):
                verify(folder, folder.name)
    assert killed >= 3
    done = started(settings.home, own_copy.tables, config)
    told = done.communicate(timeout=300)[1].decode()
    assert done.returncode == 0, told
    assert live(settings) != first
    assert not [folder.name for folder in settings.bundles.iterdir() if folder.name.startswith(".staging-")]
