"""Everybody's recommendations: equal to those asked for one by one, written whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from feature_repo import schema as s
from serving import batch
from serving.bundle import Bundle
from serving.catalog import Filters
from serving.encoders import spec as e
from serving.encoders.weights import Confidence, EventWeights
from serving.errors import ConfigError, FeatureUnavailable
from serving.features import CustomerState, FeatureReader, FrameReader
from serving.neighbours import Neighbours
from serving.recommender import PurchasedPolicy, Query, Recommendations, Recommender
from serving.settings import Settings
from tests import test_cli
from tests.builders import AT, make_bundle, state
from tests.conftest import Published
from training.cli.recommend import open_live

run = test_cli.run  # the fixture
POLICIES: tuple[PurchasedPolicy, ...] = ("exclude", "allow", "due")
TIE = 1e-6  # float32 sums of a block and of a single query differ in the last places
PRODUCTS, CUSTOMERS, FACTORS = 60, 50, 8


def with_encoder(bundle: Bundle, spec: e.EncoderSpec, **arrays: np.ndarray) -> Bundle:  # type: ignore[type-arg]
    """The bundle with another encoder and its arrays."""
    policy = bundle.manifest.policy.model_copy(update={"encoder": spec})
    manifest = bundle.manifest.model_copy(update={"policy": policy})
    return replace(bundle, manifest=manifest, matrices={**bundle.matrices, **arrays})


def toy(name: str) -> Bundle:
    """A bundle by the name of its encoder; ``twins`` has pairs of products with the same vector."""
    make = {"products": PRODUCTS, "customers": CUSTOMERS, "factors": FACTORS}
    if name in ("fold_in", "repeats", "none"):
        return make_bundle(3, encoder=name, **make)
    bundle = make_bundle(3, repeat_weight=0.0 if name == "unlifted" else 0.3, **make)
    assert bundle.vectors is not None and bundle.index is not None
    customers = bundle.matrices[e.CUSTOMERS].copy()
    customers[::7] = 0.0  # nothing was learnt of these
    known = with_encoder(bundle, e.LookupSpec(), **{e.CUSTOMERS: customers})
    match name:
        case "unlifted":
            return bundle
        case "lookup":
            return known
        case "pooling":
            return with_encoder(bundle, e.PoolingSpec(weights=EventWeights()))
        case "popular first":
            policy = bundle.manifest.policy.model_copy(update={"chain": ("segment", "personal", "popular")})
            return replace(bundle, manifest=bundle.manifest.model_copy(update={"policy": policy}))
        case "twins":
            vectors = bundle.vectors.copy()
            vectors[1::2] = vectors[::2]
            return replace(known, vectors=vectors, index=type(bundle.index).build(vectors))
        case "blend":
            half = FACTORS // 2
            blocks = (
                e.BlockSpec(name="a", start=0, stop=half, weight=1.0, encoder=e.LookupSpec()),
                e.BlockSpec(
                    name="b",
                    start=half,
                    stop=FACTORS,
                    weight=0.5,
                    encoder=e.FoldInSpec(regularization=1.0, confidence=Confidence(alpha=5.0)),
                ),
            )
            arrays = {
                "a/customers": customers[:, :half],
                "a/covariance": np.eye(half, dtype=np.float32),
                "b/covariance": np.eye(half, dtype=np.float32),
                "b/product_scale": np.ones(PRODUCTS, dtype=np.float32),
            }
            return with_encoder(bundle, e.BlendSpec(blocks=blocks), **arrays)
        case "neighbours":
            near = np.random.default_rng(5).random((PRODUCTS, PRODUCTS)).astype(np.float32)
            near[near < 0.8] = 0.0
            places = [np.flatnonzero(row).astype(np.int32) for row in near]
            indptr = np.cumsum([0, *map(len, places)], dtype=np.int64)
            arrays = Neighbours(indptr, np.concatenate(places), near[near > 0]).arrays()
            spec = e.NeighboursSpec(weights=EventWeights())
            return replace(with_encoder(bundle, spec, **arrays), vectors=None, index=None)
    raise AssertionError(name)


ENCODERS = (
    "fold_in",
    "unlifted",
    "lookup",
    "pooling",
    "blend",
    "twins",
    "popular first",
    "neighbours",
    "repeats",
    "none",
)


def states(bundle: Bundle, seed: int = 11) -> dict[str, CustomerState]:
    """Histories of most customers: views and purchases, some of them since the bundle was made."""
    generator = np.random.default_rng(seed)
    found = {}
    for place, customer in enumerate(bundle.customers[s.CUSTOMER_ID]):
        if place % 5:
            days = generator.choice([0.01, 0.1, 3.0, 40.0], generator.integers(1, 9))
            events = [
                (f"p{generator.integers(0, PRODUCTS + 3):03d}", str(generator.choice(s.KINDS)), float(day))
                for day in days
            ]
            found[customer] = state(events, "category:tea" if place % 3 else "")
    return found


def check_equal(
    recommender: Recommender, written: pd.DataFrame, n: int, at: datetime, policy: PurchasedPolicy
) -> None:
    """Every customer's rows are what ``recommend`` answers, in order; only equal scores may change places."""
    customers = recommender.bundle.customers[s.CUSTOMER_ID].tolist()
    answers = recommender.recommend([Query(at=at, customer_id=c, n=n, purchased=policy) for c in customers])
    lists = {str(customer): rows for customer, rows in written.groupby(s.CUSTOMER_ID, sort=False)}
    assert list(lists) == [c for c, answer in zip(customers, answers, strict=True) if answer.items]
    for customer, answer in zip(customers, answers, strict=True):
        if answer.items:
            check_list(recommender, lists[customer], answer, customer, at)


def check_list(
    recommender: Recommender, rows: pd.DataFrame, answer: Recommendations, customer: str, at: datetime
) -> None:
    wanted = answer.items
    assert rows[batch.RANK].tolist() == [item.rank for item in wanted]
    assert rows[batch.SOURCE].tolist() == [item.source for item in wanted]
    assert rows[batch.SCORE].tolist() == pytest.approx([item.score for item in wanted], rel=TIE, abs=TIE)
    products = rows[s.PRODUCT_ID].tolist()
    assert len(set(products)) == len(products)
    for product, score, item in zip(products, rows[batch.SCORE], wanted, strict=True):
        if product != item.product_id:
            assert item.source.startswith("model:")
            own, other = recommender.score([customer], [product, item.product_id], at)[0]
            assert (own, other) == pytest.approx((score, score), rel=TIE, abs=TIE)


def read(directory: Path) -> pd.DataFrame:
    parts = sorted(directory.glob("part-*.parquet"))
    return pd.concat([pq.read_table(part).to_pandas() for part in parts], ignore_index=True)


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several parts of several chunks, the last ones not full."""
    monkeypatch.setattr(batch, "_PART_CUSTOMERS", 17)
    monkeypatch.setattr(batch, "_CHUNK", 7)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("name", ENCODERS)
def test_everybodys_lists_are_those_asked_for_one_by_one(
    name: str, policy: PurchasedPolicy, tmp_path: Path
) -> None:
    """Also where the list is as long as what is on sale."""
    bundle = toy(name)
    recommender = Recommender(bundle, FrameReader(states(bundle)))
    for n, at in ((1, AT), (6, AT + timedelta(days=20)), (PRODUCTS, AT)):
        summary = batch.write(recommender, tmp_path / "all", at=at, n=n, purchased=policy)
        written = read(tmp_path / "all")
        check_equal(recommender, written, n, at, policy)
        assert (summary.customers, summary.rows, summary.parts) == (CUSTOMERS, len(written), 3)
        assert summary.without_features == 0


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("policy", POLICIES)
def test_everybodys_lists_of_a_published_bundle(
    published: Published, policy: PurchasedPolicy, tmp_path: Path
) -> None:
    recommender = open_live(published.settings)
    at = published.report.backtest.end
    summary = batch.write(recommender, tmp_path / "all", at=at, n=8, purchased=policy)
    assert summary.customers == len(recommender.bundle.customers) > 100
    assert summary.bundle == recommender.bundle.tag
    check_equal(recommender, read(tmp_path / "all"), 8, at, policy)


@pytest.mark.parametrize(
    ("name", "policy", "few"),
    [
        ("fold_in", "exclude", False),
        ("unlifted", "allow", False),
        ("lookup", "exclude", False),
        ("fold_in", "allow", True),
        ("neighbours", "exclude", True),
        ("none", "allow", True),
    ],
)
def test_vectors_are_searched_at_once(
    name: str, policy: PurchasedPolicy, few: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only who has no vector, or products to lift, is answered one by one."""
    asked: list[str | None] = []
    single = Recommender.answer

    def counted(self: Recommender, query: Query, known: CustomerState) -> Recommendations:
        asked.append(query.customer_id)
        return single(self, query, known)

    monkeypatch.setattr(Recommender, "answer", counted)
    bundle = toy(name)
    customers = bundle.customers[s.CUSTOMER_ID].tolist()
    lists = batch.rank(
        Recommender(bundle, FrameReader(states(bundle))), customers, at=AT, n=5, purchased=policy
    )
    assert lists.searched == CUSTOMERS - len(asked)
    if few:
        assert lists.searched <= CUSTOMERS / 3
    else:
        nothing_learnt = {customers[row] for row in range(0, CUSTOMERS, 7)} if name == "lookup" else set()
        assert set(asked) == nothing_learnt


@pytest.mark.parametrize(
    "asked",
    [{"context": ("p001",)}, {"exclude": ("p001",)}, {"filters": Filters(price_min=5.0)}],
)
def test_a_query_with_conditions_is_no_plain_search(asked: dict[str, object]) -> None:
    recommender = Recommender(toy("fold_in"), FrameReader({}))
    plain = Query(at=AT, customer_id="c03")
    assert recommender.search(plain, CustomerState()) is not None
    assert recommender.search(replace(plain, **asked), CustomerState()) is None  # type: ignore[arg-type]


class Failing(FeatureReader):
    """Reads states, but not when the customer ``hurt`` is among those asked for."""

    def __init__(self, held: dict[str, CustomerState], hurt: str) -> None:
        self._held, self._hurt = held, hurt
        self.sizes: list[int] = []

    def read(self, customer_ids: Sequence[str], at: datetime) -> list[CustomerState]:
        self.sizes.append(len(customer_ids))
        if self._hurt in customer_ids:
            raise FeatureUnavailable("down")
        return [self._held.get(customer, CustomerState()) for customer in customer_ids]


@pytest.mark.usefixtures("small_chunks")
def test_states_are_read_in_chunks_and_those_that_fail_are_counted(tmp_path: Path) -> None:
    bundle = toy("fold_in")
    reader = Failing(states(bundle), "c09")
    told: list[tuple[str, int, int]] = []
    summary = batch.write(
        Recommender(bundle, reader), tmp_path / "all", at=AT, n=3, progress=lambda *p: told.append(p)
    )
    assert reader.sizes == [7, 7, 3, 7, 7, 3, 7, 7, 2]
    assert summary.without_features == 7
    assert told[-1] == ("customers", CUSTOMERS, CUSTOMERS)
    assert len(read(tmp_path / "all")) == summary.rows == 3 * CUSTOMERS


def test_the_files_say_what_they_are(tmp_path: Path) -> None:
    bundle = toy("fold_in")
    directory = tmp_path / "new" / "all"
    summary = batch.write(Recommender(bundle, FrameReader({})), directory, at=AT, n=4, purchased="due")
    assert sorted(path.name for path in directory.iterdir()) == ["part-00000.parquet", batch.SUMMARY]
    assert pq.read_schema(directory / "part-00000.parquet").equals(batch.COLUMNS)
    told = json.loads((directory / batch.SUMMARY).read_text())
    assert told == summary.to_json()
    assert {"bundle", "at", "n", "customers", "rows", "seconds", "purchased"} <= told.keys()
    assert (told["bundle"], told["at"], told["n"], told["purchased"]) == (
        bundle.tag,
        AT.isoformat(),
        4,
        "due",
    )


def test_nobody_makes_an_empty_part(tmp_path: Path) -> None:
    bundle = make_bundle(customers=0)
    summary = batch.write(Recommender(bundle, FrameReader({})), tmp_path, at=AT, n=4)
    assert (summary.customers, summary.rows, summary.parts) == (0, 0, 1)
    assert pq.read_schema(tmp_path / "part-00000.parquet").equals(batch.COLUMNS)


class Killed(BaseException):
    pass


def content(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}


@pytest.mark.usefixtures("small_chunks")
def test_a_former_result_is_replaced_and_outlives_a_run_that_fails(tmp_path: Path) -> None:
    recommender = Recommender(toy("fold_in"), FrameReader({}))
    batch.write(recommender, tmp_path, at=AT, n=3)
    former = content(tmp_path)

    def fail(what: str, done: int, total: int) -> None:
        if done > 20:
            raise Killed

    with pytest.raises(Killed):
        batch.write(recommender, tmp_path, at=AT, n=4, progress=fail)
    assert content(tmp_path) == former
    few = Recommender(make_bundle(customers=3), FrameReader({}))
    summary = batch.write(few, tmp_path, at=AT, n=5)
    assert content(tmp_path).keys() == {"part-00000.parquet", batch.SUMMARY}
    assert len(read(tmp_path)) == summary.rows == 15


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("killed_at", range(5))
def test_a_run_killed_while_it_replaces_is_not_complete_and_can_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_at: int
) -> None:
    """Killed before each of the moves of three parts and the summary; at the fifth it is complete."""
    recommender = Recommender(toy("fold_in"), FrameReader({}))
    batch.write(recommender, tmp_path, at=AT, n=3)
    moves = 0
    move = Path.rename

    def killing(self: Path, target: Path) -> Path:
        nonlocal moves
        if moves == killed_at:
            raise Killed
        moves += 1
        return move(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", killing)
        if killed_at < 4:
            with pytest.raises(Killed):
                batch.write(recommender, tmp_path, at=AT, n=4)
            assert not (tmp_path / batch.SUMMARY).exists()
        else:
            batch.write(recommender, tmp_path, at=AT, n=4)
    again = batch.write(recommender, tmp_path, at=AT, n=5)
    assert len(read(tmp_path)) == again.rows == 5 * CUSTOMERS
    assert content(tmp_path).keys() == {*(f"part-0000{part}.parquet" for part in range(3)), batch.SUMMARY}


def test_two_runs_do_not_write_into_one_directory(tmp_path: Path) -> None:
    recommender = Recommender(toy("fold_in"), FrameReader({}))

    def second(what: str, done: int, total: int) -> None:
        with pytest.raises(ConfigError, match="another run"):
            batch.write(recommender, tmp_path, at=AT, n=2)

    summary = batch.write(recommender, tmp_path, at=AT, n=3, progress=second)
    assert len(read(tmp_path)) == summary.rows


@pytest.mark.parametrize(
    "held",
    [
        {"notes.txt": "mine"},
        {"part-00000.parquet": "somebody's"},
        {"recommendations.json": "{}"},
        {"recommendations.json": "no JSON", "part-00000.parquet": ""},
    ],
)
def test_what_is_not_a_former_result_is_refused_and_left_alone(tmp_path: Path, held: dict[str, str]) -> None:
    for name, text in held.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=r"expected an empty directory .* found .*; choose another"):
        batch.write(Recommender(toy("fold_in"), FrameReader({})), tmp_path, at=AT, n=3)
    assert content(tmp_path) == {name: text.encode() for name, text in held.items()}


def test_a_former_result_with_something_else_is_refused(tmp_path: Path) -> None:
    recommender = Recommender(toy("fold_in"), FrameReader({}))
    batch.write(recommender, tmp_path, at=AT, n=3)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"found notes\.txt"):
        batch.write(recommender, tmp_path, at=AT, n=3)
    with pytest.raises(ConfigError, match="expected a directory"):
        batch.write(recommender, tmp_path / "notes.txt", at=AT, n=3)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "found nothing; name a customer, or add --all --to DIR"),
        (["--all"], "expected --to DIR with --all"),
        (["c1", "--all", "--to", "out"], "found 'c1' and --all"),
        (["c1", "--to", "out"], "expected --all with --to"),
        (["--all", "--to", "out", "--purchased", "maybe"], "exclude, allow or due"),
        (["--all", "--to", "out"], "nextbest train"),
    ],
)
def test_wrong_words_get_one_sentence_and_exit_2(
    run: test_cli.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("recommend", *words)
    assert result.code == 2
    assert told in result.err
    assert result.err.startswith("error: expected")
    assert result.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_command_writes_everybody(run: test_cli.Run, published: Published, tmp_path: Path) -> None:
    home, directory = published.settings.home, tmp_path / "all"
    shown = run("recommend", "--all", "--to", directory, "-n", "3", home=home)
    assert shown.code == 0
    assert f"in {directory}" in shown.out
    assert "customers: " in shown.err
    told = json.loads(run("recommend", "--all", "--to", directory, "-n", "4", "--json", home=home).out)
    assert told == json.loads((directory / batch.SUMMARY).read_text())
    written = read(directory)
    assert (told["n"], told["purchased"], told["rows"]) == (4, "exclude", len(written))
    customer = str(written[s.CUSTOMER_ID].iloc[0])
    asked = ["recommend", customer, "-n", "4", "--json"]
    one = json.loads(run(*asked, home=home).out)["recommendations"]
    assert [item["product_id"] for item in one] == written[s.PRODUCT_ID].tolist()[:4]
    (directory / "notes.txt").write_text("mine")
    refused = run("recommend", "--all", "--to", directory, home=home)
    assert refused.code == 2
    assert "found notes.txt" in refused.err


def test_a_store_that_is_down_is_told(
    run: test_cli.Run, published: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from training.cli import recommend

    def hurt(settings: Settings, *, timeout_ms: float, rules: Path | None) -> Recommender:
        return Recommender(toy("fold_in"), Failing({}, "c01"))

    monkeypatch.setattr(recommend, "open_live", hurt)
    result = run("recommend", "--all", "--to", tmp_path / "all", home=published.settings.home)
    assert result.code == 0
    assert f"did not answer for {CUSTOMERS} customers" in result.err
