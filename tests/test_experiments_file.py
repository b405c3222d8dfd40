"""``experiments.toml``: what it says is read, and what does not fit is refused in one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving.errors import ConfigError
from serving.experiments_file import NO_FILE, Experiments

GOOD = """
holdout = 0.02
[[experiments]]
name = "ranked"
surfaces = ["home"]
customers = {country = ["DE", "AT"], member = true}
[[experiments.variants]]
name = "control"
weight = 90
[[experiments.variants]]
name = "trees"
weight = 10
bundle = "nextbest:202601010000-0123456789ab"
shadow = true
"""


def parse(text: str) -> Experiments:
    return Experiments.parse(text.encode(), Path("experiments.toml"))


def test_what_it_says_is_read() -> None:
    told = parse(GOOD)
    (experiment,) = told.experiments
    assert (told.holdout, experiment.name, experiment.salt) == (0.02, "ranked", "ranked")
    assert experiment.surfaces == ("home",)
    assert experiment.customers == {"country": ("DE", "AT"), "member": (True,)}
    assert [(v.name, v.weight, v.version, v.shadow) for v in experiment.variants] == [
        ("control", 90, None, False),
        ("trees", 10, "202601010000-0123456789ab", True),
    ]
    assert told.versions == {"202601010000-0123456789ab"}
    assert told.attributes == {"country", "member"}


def test_a_byte_order_mark_is_passed_over() -> None:
    assert parse("\ufeff" + GOOD).experiments == parse(GOOD).experiments


def test_the_digest_is_that_of_the_bytes(tmp_path: Path) -> None:
    assert parse(GOOD).digest == parse(GOOD).digest != parse(GOOD + "\n").digest
    path = tmp_path / "experiments.toml"
    assert Experiments.read(path).digest == NO_FILE
    path.write_text(GOOD)
    assert Experiments.read(path) == parse(GOOD)


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ("holdout = 0.02", "holdout = 1", "holdout: expected a share below 1, found 1"),
        ("holdout = 0.02", "holdout = -0.1", "holdout: expected a share of at least 0, found -0.1"),
        ("holdout = 0.02", 'holdout = "a"', 'holdout: expected a number, found "a"'),
        ("holdout = 0.02", "hold = 0.02", r'found "hold" \(the nearest is holdout\)'),
        ("holdout = 0.02", "digest = 'x'", 'found "digest"'),
        ("holdout = 0.02", 'holdout_salt = "ranked"', "another salt than the holdout"),
        ('name = "ranked"', 'name = "ranked"\nrules = []', r'expected one of the keys name, .*found "rules"'),
        ('name = "ranked"', 'name = "a/b"', "expected letters, digits"),
        ('name = "ranked"', 'name = "holdout"', 'expected another name than "holdout"'),
        (
            'name = "ranked"',
            'name = "live"',
            'expected another name than "live", .* answers outside experiments',
        ),
        (
            'name = "trees"',
            'name = "fallback"',
            'other name than "fallback" for a variant: .* ask for the holdout',
        ),
        ('name = "ranked"', "", "expected the key name in experiments number 1, found none"),
        ('surfaces = ["home"]', 'surfaces = "home"', 'surfaces: expected a list, found "home"'),
        ('surfaces = ["home"]', "surfaces = []", "surfaces: expected at least one entry"),
        ('["DE", "AT"]', "[]", "country: expected a text, a number"),
        ('["DE", "AT"]', "[1979-05-27]", "country: expected a text, a number"),
        (
            "weight = 10",
            "weight = 0",
            "experiments ranked, variants trees, weight: expected a positive number, found 0",
        ),
        ("weight = 10", "weight = nan", "expected a"),
        ("weight = 10", "", "expected the key weight in experiments ranked, variants trees, found none"),
        ("weight = 10", "weigth = 10", r'found "weigth" \(the nearest is weight\)'),
        ("weight = 10", "weight = true", "expected a number, found true"),
        (
            'name = "trees"',
            'name = "control"',
            'expected variants with a name of its own each, found "control" twice',
        ),
        ("nextbest:202601010000", "other:202601010000", "expected a tag such as nextbest:VERSION"),
        ('bundle = "nextbest:202601010000-0123456789ab"', 'bundle = "nextbest:../x"', "expected a tag"),
        ("weight = 90", "weight = 90\nshadow = true", "expected the first variant, the control, to be shown"),
        ("shadow = true", "shadow = 1", "expected true or false, found 1"),
        ("[[experiments.variants]]", "[[experiments.variants", "expected TOML in experiments.toml"),
    ],
)
def test_what_does_not_fit_is_told(before: str, after: str, told: str) -> None:
    assert before in GOOD
    with pytest.raises(ConfigError, match=told) as refused:
        parse(GOOD.replace(before, after, 1))
    assert str(refused.value).endswith("; correct it")
    assert "found" in str(refused.value)


MIXED = """
[[experiments]]
name = "mixed"
kind = "interleave"
[[experiments.variants]]
name = "control"
[[experiments.variants]]
name = "trees"
bundle = "nextbest:v2"
"""


def test_an_interleaved_experiment_is_read() -> None:
    (experiment,) = parse(MIXED).experiments
    assert experiment.is_interleaved
    assert [variant.weight for variant in experiment.variants] == [1.0, 1.0]
    (split,) = parse(GOOD).experiments
    assert not split.is_interleaved


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ('"interleave"', '"mix"', 'mixed, kind: expected split or interleave, found "mix"'),
        (
            '"trees"',
            '"trees"\nweight = 1',
            "experiments mixed: expected no weights .* found 1; leave weight out",
        ),
        ('"trees"', '"trees"\nshadow = true', "expected two variants that are shown, found a shadow"),
        ('"trees"', '"interleaved"', 'expected another name than "interleaved" for a variant'),
        ('"trees"', '"control"', 'found "control" twice'),
        (MIXED[MIXED.rindex("[[") :], "", "expected two variants to interleave, found 1"),
        ('bundle = "nextbest:v2"', '[[experiments.variants]]\nname = "third"', "found 3"),
        ('bundle = "nextbest:v2"', "bundel = 1", r'found "bundel" \(the nearest is bundle\)'),
    ],
)
def test_what_does_not_fit_in_an_interleaved_experiment_is_told(before: str, after: str, told: str) -> None:
    assert before in MIXED
    with pytest.raises(ConfigError, match=told):
        parse(MIXED.replace(before, after, 1))


def test_experiments_have_names_of_their_own() -> None:
    part = GOOD[GOOD.index("[[experiments]]") :]
    with pytest.raises(
        ConfigError,
        match=r'^experiments\.toml: expected experiments with a name of its own each, found "ranked" twice',
    ):
        parse(part + part)


def test_what_is_no_text_is_told() -> None:
    with pytest.raises(ConfigError, match="expected TOML"):
        Experiments.parse(b"\xff", Path("experiments.toml"))
