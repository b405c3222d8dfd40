"""The recovery benchmark on a tiny world: the oracle is the ceiling, and figures are consistent."""

from __future__ import annotations

import pytest

from tests.conftest import NOW, small_config
from training.benchmarks.recovery import recovery


@pytest.mark.slow
def test_oracle_is_the_ceiling() -> None:
    result = recovery([11, 12], customers=800, products=300, config=small_config(), now=NOW)
    assert [run["seed"] for run in result["seeds"]] == [11, 12]
    for run in result["seeds"]:
        models = {row["model"]: row["all"] for row in run["models"]}
        oracle = models.pop("oracle")
        assert oracle["true_top_share"]["mean"] == 1.0
        for name, row in models.items():
            assert row["customers"] == oracle["customers"] == run["judged_customers"]
            assert row["ndcg"]["mean"] < oracle["ndcg"]["mean"], name
            assert row["true_top_share"]["mean"] < 1.0
        assert models["als"]["true_top_share"]["low"] > models["popularity-28d"]["true_top_share"]["high"]
