"""What is installed is what is imported, wherever that is written down."""

from __future__ import annotations

import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]


def test_a_bento_installs_what_the_service_depends_on() -> None:
    base = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    told = yaml.safe_load((ROOT / "bentofile.yaml").read_text())["python"]["packages"]
    assert sorted(one.replace("feast[redis]", "feast") for one in told) == sorted(base)
