"""Everything that can be changed is changed under load: no request fails, and each answer is of one state."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from eval.benchmarks.changes import Asked, InForce, Made, changes, examine
from serving.experiments_file import Experiments
from serving.told import LiveRules, Plan
from tests.conftest import Published

#: One round of all changes; `nextbest benchmark changes` goes on for longer.
SECONDS = 30.0


def in_force(version: str, rules: str, since: float) -> InForce:
    text = b'[[experiments]]\nname = "e"\n' + b"".join(
        b'[[experiments.variants]]\nname = "%s"\nweight = 1\n' % name for name in (b"control", b"other")
    )
    path = Path("rules.toml")
    told = LiveRules.parse(f'[[cap]]\nname = "{rules}"\nat_most = 1\n'.encode(), path)
    return InForce(version, told, Plan.of(Experiments.parse(text, path), {}), since)


@pytest.mark.parametrize(
    ("sent", "others", "is_sound"),
    [
        (1.0, "none", True),
        (14.0, "none", True),
        (30.0, "none", False),
        (14.0, "rules", False),
        (14.0, "bundle", False),
    ],
)
def test_an_answer_that_mixes_states_or_comes_too_late_is_noticed(
    sent: float, others: str, is_sound: bool
) -> None:
    first, second = in_force("v1", "a", 0.0), in_force("v2", "b", 12.0)
    made: list[tuple[str, Made]] = [(who, first.made(who)) for who in ("c1", "c2", "c3")]
    bundle, rules, *rest = made[-1][1]
    mixed = {"none": bundle, "rules": bundle, "bundle": "nextbest:v2"}[others]
    own = second.rules.digest if others == "rules" else rules
    made[-1] = "c3", (mixed, own, *rest)  # type: ignore[assignment]
    found = examine(Asked([(sent, sent + 0.01, made)]), [first, second], corrupt="v3")
    assert (found["broken"] == []) == is_sound
    assert found["unexplained"] == (not is_sound)
    by_corrupt = examine(Asked([(sent, sent + 0.01, made)]), [first, second], corrupt="v1")
    assert "not whole" in by_corrupt["broken"][-1]


@pytest.fixture(scope="module")
def found(published: Published) -> dict[str, Any]:
    return changes(published.settings, seconds=SECONDS, every=1.9)


@pytest.mark.slow
def test_no_request_fails_and_every_answer_is_of_one_state_that_was_in_force(found: dict[str, Any]) -> None:
    assert found["broken"] == []
    assert found["failed"] == {}
    assert found["unexplained"] == 0
    assert found["requests"] > 500


@pytest.mark.slow
def test_a_bundle_with_a_flipped_bit_never_answers(found: dict[str, Any]) -> None:
    assert found["changes"]["deploy badly"] >= 1
    assert found["of_the_corrupt_bundle"] == 0


@pytest.mark.slow
def test_all_kinds_of_changes_were_made_and_their_states_answered(found: dict[str, Any]) -> None:
    assert len(found["changes"]) == 13
    assert found["states_seen"] == found["states"]
