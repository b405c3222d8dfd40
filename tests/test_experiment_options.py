"""Options that say nothing for the kind of experiment at hand are refused by name, not passed over."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import planted_drafts
from tests.planted_experiment import NAME, planted, written
from tests.test_cli import Run, run

__all__ = ["run"]

SHARES = ("--shares", "control=0.5,treatment=0.5")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (("--hours", "3"), "expected --hours with an interleaved experiment or --counterfactual only, found it though "
         "homepage is an A/B test; leave it out"),
        (("--clip", "3"), "expected --clip with --counterfactual only"),
        (("--counterfactual", "nextbest:x", "--past", "9"), "expected --past with an A/B test only, found it with"),
        (("--counterfactual", "nextbest:x", "--final"), "expected --final with an A/B test or an interleaved"),
        (("--metric", "foo"), "expected a metric of conversion, value, clicks, purchases per exposure, found 'foo'"),
    ],
)  # fmt: skip
def test_what_is_not_for_an_ab_test_is_refused(
    run: Run, tmp_path: Path, given: tuple[str, ...], told: str
) -> None:
    shop = written(planted(customers=400), tmp_path / "shop")
    shares = () if "--counterfactual" in given else SHARES
    refused = run("experiment", NAME, "--tables", shop, *shares, *given, home=tmp_path / "home")
    assert refused.code == 2 and told in refused.err, refused.err


@pytest.mark.parametrize(
    "given",
    [("--immature",), ("--past", "9"), ("--margin", "latency=0.1"), ("--since", "2026-03-02"), SHARES],
)
def test_what_is_not_for_an_interleaved_experiment_is_refused(
    run: Run, tmp_path: Path, given: tuple[str, ...]
) -> None:
    shop = planted_drafts.written_drafts(planted_drafts.drafts(customers=100), tmp_path / "shop")
    refused = run("experiment", planted_drafts.NAME, "--tables", shop, *given, home=tmp_path / "home")
    assert refused.code == 2
    assert f"expected {given[0]} with an A/B test" in refused.err
    assert "though draft is an interleaved experiment; leave it out" in refused.err
