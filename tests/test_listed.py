"""The accuracy benchmark: lists are read strictly, cut fairly, and a planted split is ranked as it should be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_repo import schema as s
from feature_repo.recent import KIND_CODES
from serving.errors import ConfigError, DataError
from training.benchmarks.accuracy import accuracy
from training.benchmarks.listed import AS_OF, Listed, nearness, training_set
from training.spaces import WEIGHTS

GROUPS, PER_GROUP, USERS, TEST = 4, 10, 60, 2


def written(directory: Path, train: str, test: str = "") -> Path:
    directory.mkdir(exist_ok=True)
    (directory / "train.txt").write_text(train)
    (directory / "test.txt").write_text(test)
    return directory


def pairs(matrix: sp.csr_matrix) -> list[tuple[int, int]]:
    return [(int(row), int(column)) for row, column in zip(*matrix.nonzero(), strict=True)]


# --- reading


def test_lists_are_read(tmp_path: Path) -> None:
    """Blank lines and users without products say nothing; a product named twice counts once."""
    read = Listed.read(written(tmp_path, "0 3 1\n\n1\n2 1 1 2 1\n   \n", "0 2\n2 0\n"))
    assert pairs(read.train) == [(0, 1), (0, 3), (1, 1), (1, 2)]
    assert pairs(read.test) == [(0, 2), (1, 0)]
    for part in (read.train, read.test):
        assert part.shape == (2, 4) and part.dtype == np.float32
        assert set(part.data.tolist()) == {1.0}


def test_numbers_are_made_dense_in_their_order(tmp_path: Path) -> None:
    """Users and products of both files, also those of one file only; a user of two lines is one user."""
    read = Listed.read(
        written(tmp_path, "999999999 5 700000000\n7 700000000\n999999999 6\n", "8 5\n7 123456789\n")
    )
    assert read.train.shape == read.test.shape == (3, 4)
    assert pairs(read.train) == [(0, 3), (2, 0), (2, 1), (2, 3)]
    assert pairs(read.test) == [(0, 2), (1, 0)]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("0 1\n1 x\n", 2),
        ("0 1\n\n\n2 -1\n", 4),
        ("-1 2\n", 1),
        ("0 1.5\n", 1),
        ("0 1,2\n", 1),
        ("0 ٣\n", 1),
        ("0 1\n0 ²\n", 2),
        ("0 1234567890\n", 1),
    ],
)
@pytest.mark.parametrize("name", ["train", "test"])
def test_what_is_no_number_is_told_with_file_and_line(
    tmp_path: Path, text: str, line: int, name: str
) -> None:
    parts = {"train": "0 1\n", "test": "0 2\n", name: text}
    with pytest.raises(DataError, match=rf"expected 'user item item …' .* in line {line} of .*{name}\.txt"):
        Listed.read(written(tmp_path, parts["train"], parts["test"]))


def test_missing_and_empty_files_are_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no readable .*train\.txt; name the directory"):
        Listed.read(tmp_path / "nowhere")
    (written(tmp_path / "half", "0 1\n") / "test.txt").unlink()
    with pytest.raises(DataError, match=r"no readable .*test\.txt; name the directory"):
        Listed.read(tmp_path / "half")
    (written(tmp_path / "bytes", "0 1\n") / "test.txt").write_bytes(b"0 \xff\n")
    with pytest.raises(DataError, match=r"no readable .*test\.txt"):
        Listed.read(tmp_path / "bytes")
    with pytest.raises(DataError, match=r"expected interactions in .*train\.txt, found none"):
        Listed.read(written(tmp_path / "empty", "\n3\n", "0 1\n"))


# --- the validation part


def random_split(seed: int, *, users: int = 40, items: int = 30) -> Listed:
    generator = np.random.default_rng(seed)
    held = generator.random((users, items)) < generator.uniform(0.01, 0.5, (users, 1))
    held[0], held[1] = False, False
    held[1, 3], held[2] = True, np.arange(items) < 2
    train = sp.csr_matrix(held.astype(np.float32))
    return Listed(train, sp.csr_matrix(train.shape, dtype=np.float32))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), share=st.sampled_from([0.1, 0.2, 0.5, 0.9]))
def test_validation_cuts_train_in_two(seed: int, share: float) -> None:
    whole = random_split(seed).train.toarray()
    cut = random_split(seed).validation(share=share, seed=seed)
    kept, lost = cut.train.toarray(), cut.test.toarray()
    assert not (kept * lost).any()
    assert np.array_equal(kept + lost, whole)
    size, out = whole.sum(axis=1), lost.sum(axis=1)
    able = size >= 2
    assert not out[~able].any()
    assert (out[able] >= 1).all() and (out[able] < size[able]).all()
    wanted = np.clip(np.round(size.astype(np.float64) * share), 1, np.maximum(size - 1, 1))
    assert np.array_equal(out[able], wanted[able])


def test_same_seed_same_cut() -> None:
    first, again, other = (random_split(1).validation(seed=seed).test.toarray() for seed in (3, 3, 4))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def blocks(*, users: int = 200) -> sp.csr_matrix:
    """Everybody takes one whole group of ten products and another one: two visits."""
    generator = np.random.default_rng(0)
    held = np.zeros((users, 80), dtype=np.float32)
    for user in range(users):
        for group in generator.permutation(8)[:2]:
            held[user, 10 * group : 10 * group + 10] = 1.0
    return sp.csr_matrix(held)


def test_half_of_the_customers_lose_a_group_and_half_at_random() -> None:
    """Of ten products lost, like ones are all of one group; ten drawn at random never are."""
    train = blocks()
    cut = Listed(train, sp.csr_matrix(train.shape, dtype=np.float32)).validation(share=0.5)
    groups = [len(set((own // 10).tolist())) for own in np.split(cut.test.indices, cut.test.indptr[1:-1])]
    assert set(groups) == {1, 2}
    # two hundred throws of a coin: four standard deviations, of seven each, on either side
    assert 70 < groups.count(1) < 130


def test_a_lost_group_is_that_of_a_product_drawn_at_random() -> None:
    """Everybody took a group of four and one of twelve and loses four: the small group whole when the draw is of it."""
    generator, users = np.random.default_rng(1), 400
    held = np.zeros((users, 64), dtype=np.float32)
    small = generator.integers(0, 4, users)
    for user, large in enumerate(generator.integers(0, 4, users)):
        held[user, 4 * small[user] : 4 * small[user] + 4] = 1.0
        held[user, 16 + 12 * large : 28 + 12 * large] = 1.0
    train = sp.csr_matrix(held)
    cut = Listed(train, sp.csr_matrix(train.shape, dtype=np.float32)).validation(share=0.25)
    lost = cut.test.toarray()[:, :16].sum(axis=1) == 4
    # half of the customers, a quarter of the draws: 50 expected, 6.6 the standard deviation; four of them
    assert 23 < lost.sum() < 77


def test_nearness_is_of_those_bought_together() -> None:
    train = blocks()
    left, right = np.indices((80, 80), dtype=np.int32).reshape(2, -1)
    found = nearness(train, left, right, seed=0).reshape(80, 80)
    same = np.kron(np.eye(8), np.ones((10, 10))) > 0
    # products of a group were bought by the very same customers: equal vectors, in single precision
    np.testing.assert_allclose(found[same], 1.0, atol=1e-4)
    assert found[~same].max() < 0.9


# --- the training set


def test_training_set_says_what_the_lists_say(tmp_path: Path) -> None:
    read = Listed.read(written(tmp_path, "".join(f"{u} {u % 3} {u + 3}\n" for u in range(11))))
    data = training_set(read.train)
    assert data.as_of == AS_OF and data.customers.ids[0] == "00" and data.customers.ids[10] == "10"
    assert sorted(zip(data.customer_idx.tolist(), data.product_idx.tolist(), strict=True)) == pairs(
        read.train
    )
    assert set(data.kinds.tolist()) == {KIND_CODES[s.PURCHASE]}
    assert data.age_days.tolist() == [1.0] * 22
    state = data.reader.read(["07"], AS_OF)[0]
    assert [data.catalog.index[product] for product in state.history.products] == [1, 10]
    assert len(state.history.before(AS_OF)) == 2  # what happened counts at the model's clock
    assert not state.row


# --- end to end


def planted(directory: Path) -> Path:
    """Sixty users, each of one of four groups of ten products: they took six, two more are asked for."""
    generator = np.random.default_rng(0)
    lines: dict[str, list[str]] = {"train": [], "test": []}
    for user in range(USERS):
        own = user % GROUPS * PER_GROUP + generator.permutation(PER_GROUP)
        lines["train"].append(" ".join(map(str, [user, *own[:6]])))
        lines["test"].append(" ".join(map(str, [user, *own[6 : 6 + TEST]])))
    return written(directory, "\n".join(lines["train"]), "\n".join(lines["test"]))


def test_an_unknown_model_is_told(tmp_path: Path) -> None:
    for models, found in ((["als", "oracle"], "oracle"), ([], "none")):
        with pytest.raises(ConfigError, match=f"expected models of popularity, .*found '{found}'"):
            accuracy(tmp_path, models=models, k=4, seed=0)


def test_an_error_of_the_process_is_raised_here(tmp_path: Path) -> None:
    """The split is read in the process of the model again; that it vanished in between is told as here."""
    from training.benchmarks import accuracy as module

    with pytest.raises(DataError, match=r"no readable .*train\.txt"):
        module._alone(module._run, tmp_path, "popularity", 4, 0, {}, False)


def ranked(directory: Path, models: list[str]) -> dict[str, dict[str, Any]]:
    """Run the benchmark on the planted split and return the rows by model, after what holds of every run.

    Of a group four products are left, of which two are asked for: whoever knows the groups finds both among four.
    Popularity has one in ten of what is left to find them among.
    """
    seen: list[tuple[str, int, int]] = []
    report = accuracy(
        planted(directory), models=models, k=4, seed=0, progress=lambda *told: seen.append(told)
    )
    assert report["data"] == {"customers": 60, "products": 40, "train": 360, "test": 120}
    assert [row["model"] for row in report["results"]] == models
    assert sorted(name for name, _, _ in seen) == sorted(models)
    assert [told[1:] for told in seen] == [(number, len(models)) for number in range(1, len(models) + 1)]
    rows = {row["model"]: row for row in report["results"]}
    assert rows["popularity"]["recall@4"] < 0.3
    assert rows["popularity"]["trials"] == [] and rows["popularity"]["settings"] == {}
    for name in set(models) - {"popularity"}:
        assert rows[name]["recall@4"] > rows["popularity"]["recall@4"] + 0.5, name
        assert rows[name]["ndcg@4"] > rows["popularity"]["ndcg@4"] + 0.3, name
        trials = rows[name]["trials"]
        best = max(trials, key=lambda trial: trial["ndcg"])
        told = [{key: value for key, value in trial.items() if key != "ndcg"} for trial in trials]
        assert len(trials) > 1 and all(told.count(one) == 1 for one in told)
        # what was chosen did best on the validation part; weights of a blend stand among its parts' settings
        chosen = next(
            trial
            for trial, one in zip(trials, told, strict=True)
            if one.items() <= rows[name]["settings"].items()
        )
        assert chosen["ndcg"] == best["ndcg"], name
    return rows


def test_planted_split_end_to_end(tmp_path: Path) -> None:
    ranked(tmp_path, ["spectral", "popularity", "knn"])


@pytest.mark.slow
def test_planted_split_with_a_blend(tmp_path: Path) -> None:
    """The blend comes last, wherever it was asked for, and takes over what its parts found."""
    rows = ranked(tmp_path, ["blend", "popularity", "als", "spectral", "knn"])
    settings = rows["blend"]["settings"]
    assert set(settings) == {"weights", "spectral", "als"} and settings["weights"]["spectral"] == 1.0
    for part in ("spectral", "als"):
        assert settings[part] == rows[part]["settings"]
    assert [trial["weights"]["als"] for trial in rows["blend"]["trials"]] == list(WEIGHTS)
