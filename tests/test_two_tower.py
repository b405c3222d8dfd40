"""Two towers: NumPy and torch agree, the loss is the softmax over the catalog, nothing held out is trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from numpy.typing import NDArray

from feature_repo import schema as s
from feature_repo.recent import DAY_US, History, to_micros
from serving.encoders.spec import HISTORY_VECTORS, TowerSpec
from serving.encoders.tower import LAYERS, Tower
from serving.encoders.vocabulary import Vocabulary
from serving.encoders.weights import EventWeights, HistoryWeights
from serving.errors import BundleError
from serving.features import CustomerState
from tests.builders import AS_OF
from tests.test_lightfm import AGE, COLD, GROUPS, PER_GROUP, REGION, SILENT, described, subject
from tests.test_lightfm import scores as scored
from training.dataset import TrainingSet
from training.models import tokens, two_tower
from training.models.base import Embeddings, weight_matrix
from training.models.configs import TwoTowerConfig
from training.models.two_tower_net import Towers
from training.models.two_tower_steps import Examples, Judge

PRODUCTS, WIDTH, HIDDEN, WORDS, RANK = 30, 6, 4, 9, 3
VOCABULARY: Final = Vocabulary(tokens=("age#0", "age#1", "town=Linz", "town=Graz"), edges={"age": (40.0,)})
WEIGHTS: Final = EventWeights(half_life_days=20.0)
CONFIG: Final = TwoTowerConfig(factors=WIDTH, hidden=HIDDEN, temperature=0.1, id_dropout=0.0)
Matrix = Any
Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]


def sparse(
    rows: int,
    columns: int,
    generator: np.random.Generator,
    *,
    share: float = 0.25,
    empty: int | None = None,
) -> Matrix:
    """Random weights; the row ``empty`` has none."""
    values = generator.uniform(0.2, 2.0, (rows, columns)) * (generator.random((rows, columns)) < share)
    if empty is not None:
        values[empty] = 0.0
    return sp.csr_matrix(values.astype(np.float32))


def random_towers(*, features: int = 4, seed: int = 0) -> Towers:
    """Towers whose every parameter is drawn: nothing is zero or one by its start."""
    generator = np.random.default_rng(seed)
    description = sparse(PRODUCTS, WORDS, generator, empty=3)
    known = generator.random(PRODUCTS) < 0.7
    known[3] = False

    def draw(*shape: int) -> Float32:
        return generator.normal(size=shape).astype(np.float32)

    towers = Towers(
        identity=draw(PRODUCTS, WIDTH + 1),
        known=known,
        description=description,
        table=draw(WORDS, WIDTH + 1),
        history=draw(PRODUCTS, WIDTH),
        features=draw(max(features, 1), WIDTH),
        config=CONFIG,
    )
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in towers.parameters():
            if parameter.requires_grad:
                parameter.normal_()
    return towers


def exported(towers: Towers) -> tuple[Float32, Float32, dict[str, Any]]:
    """Return product vectors, history vectors and layers in NumPy."""
    features = towers.features.weight.shape[0]
    newcomers = np.random.default_rng(9).normal(size=(features, RANK)).astype(np.float32)
    with torch.no_grad():
        layers = {**towers.exported_layers(), "newcomers": newcomers}
        return towers.products().numpy(), towers.history.weight.numpy().copy(), layers


def states(count: int, seed: int = 1) -> list[CustomerState]:
    """Customers with and without history, with and without features, in every combination."""
    generator = np.random.default_rng(seed)
    found = []
    for number in range(count):
        size = int(generator.integers(1, 8)) if number % 2 else 0
        days = np.sort(generator.uniform(1, 60, size))[::-1]
        events = [
            (f"p{generator.integers(PRODUCTS)}", str(kind), to_micros(AS_OF) - int(ago * DAY_US), 1.0)
            for ago, kind in zip(days, generator.choice([s.VIEW, s.PURCHASE], size), strict=True)
        ]
        told = {"town": str(generator.choice(["Linz", "Graz", "Wien"])), "age": generator.uniform(20, 60)}
        found.append(CustomerState(told if number // 2 % 2 else {}, History.of(events)))
    return found


def shown_to_torch(asked: Sequence[CustomerState], history: HistoryWeights) -> Matrix:
    rows = np.zeros((len(asked), PRODUCTS), dtype=np.float32)
    for row, state in enumerate(asked):
        products, weights = history.of(state.history, AS_OF)
        rows[row, products] = weights
    return sp.csr_matrix(rows)


# --- the two towers as they are served


@pytest.mark.parametrize("with_features", [True, False])
def test_numpy_tower_is_the_torch_one(with_features: bool) -> None:
    vocabulary = VOCABULARY if with_features else Vocabulary()
    towers = random_towers(features=len(vocabulary.tokens))
    _, history_vectors, layers = exported(towers)
    weigher = HistoryWeights(WEIGHTS, index={f"p{p}": p for p in range(PRODUCTS)}, as_of=AS_OF)
    tower = Tower(history_vectors, layers=layers, vocabulary=vocabulary, history=weigher)
    asked = states(40)
    features = tokens.matrix([state.row for state in asked], vocabulary)
    with torch.no_grad():
        wanted = towers.customers(shown_to_torch(asked, weigher), features).numpy()
    nobody = 0
    for state, row in zip(asked, wanted, strict=True):
        found = tower.encode(subject(None, state))
        if found is None:
            assert not len(state.history) and not (with_features and state.row)
            nobody += 1
            continue
        assert found.dtype == np.float32 and found.shape == (WIDTH + 1 + RANK + 1,)
        assert np.linalg.norm(found[:WIDTH]) <= (1 + 1e-5) / CONFIG.temperature
        if len(state.history):
            # both in single precision; vectors have length ten
            np.testing.assert_allclose(found[: WIDTH + 1], row, rtol=1e-5, atol=1e-5)
            assert not found[WIDTH + 1 :].any()
        else:
            leaning = layers["newcomers"][vocabulary.places(state.row)].sum(axis=0)
            assert not found[: WIDTH + 1].any()
            np.testing.assert_allclose(found[WIDTH + 1 :], [*leaning, 1.0], rtol=1e-6)
    assert nobody == (10 if with_features else 20)


def test_product_vectors_are_identity_and_description() -> None:
    towers = random_towers()
    products, _, _ = exported(towers)
    state = {name: value.numpy().astype(np.float64) for name, value in towers.state_dict().items()}
    summed = state["identity.weight"] * state["known"][:, None]
    summed += towers._description.toarray() @ state["words.weight"]
    length = np.linalg.norm(summed[:, :WIDTH], axis=1, keepdims=True)
    wanted = np.hstack([summed[:, :WIDTH] / np.maximum(length, 1e-12), summed[:, WIDTH:] * WIDTH**0.5])
    np.testing.assert_allclose(products, wanted, rtol=1e-5, atol=1e-5)  # single precision
    assert not products[3].any()  # neither identity nor description


def test_every_layer_is_exported_and_asked_for() -> None:
    _, history_vectors, layers = exported(random_towers())
    assert set(layers) == set(LAYERS)
    weigher = HistoryWeights(WEIGHTS, index={}, as_of=AS_OF)
    for name in LAYERS:
        fewer = {key: array for key, array in layers.items() if key != name}
        with pytest.raises(BundleError, match=f"array '{name}'"):
            Tower(history_vectors, layers=fewer, vocabulary=VOCABULARY, history=weigher)


# --- a fitted model

#: Four customers are held out here, too few to stop by: all epochs are run.
FITTED: Final = TwoTowerConfig(
    factors=8, hidden=8, batch_size=16, epochs=12, patience=12, learning_rate=0.1, id_dropout=0.2
)


@pytest.fixture(scope="module")
def data() -> TrainingSet:
    return described()


@pytest.fixture(scope="module")
def fitted(data: TrainingSet) -> tuple[Embeddings, Towers]:
    """The model, and the torch module that it was exported from."""
    kept: list[Towers] = []
    with pytest.MonkeyPatch.context() as patch:
        export = two_tower.exported

        def exported_and_kept(towers: Towers, spec: TowerSpec, *newcomers: Float32) -> Embeddings:
            kept.append(towers)
            return export(towers, spec, *newcomers)

        patch.setattr(two_tower, "exported", exported_and_kept)
        found = two_tower.fit(data, FITTED, seed=0, threads=1)
    return found, kept[0]


def served(model: Embeddings, data: TrainingSet, state: CustomerState) -> Any:
    assert isinstance(model.encoder, TowerSpec)
    return scored(model, model.encoder, data, None, state)


def test_fitted_towers_serve_what_torch_computes(
    data: TrainingSet, fitted: tuple[Embeddings, Towers]
) -> None:
    model, towers = fitted
    assert isinstance(model.encoder, TowerSpec)
    asked = data.reader.read(data.customers.ids, AS_OF)
    matrix = weight_matrix(data, FITTED.weights)
    features = tokens.matrix(tokens.customer_rows(data), model.encoder.vocabulary)
    with torch.no_grad():
        wanted = (towers.customers(matrix, features) @ towers.products().T).cpu().double().numpy()
    known = np.flatnonzero(np.diff(matrix.indptr) > 0)
    assert 40 < len(known) < len(asked)
    found = np.array([served(model, data, asked[row]) for row in known])
    # cosines times ten in single precision
    np.testing.assert_allclose(found, wanted[known], rtol=1e-5, atol=1e-4)
    assert np.array_equal(model.matrices[HISTORY_VECTORS], towers.history.weight.detach().cpu().numpy())


def test_a_cold_product_goes_to_those_who_buy_its_like(
    data: TrainingSet, fitted: tuple[Embeddings, Towers]
) -> None:
    """Never bought, but described: among such products each customer finds that of the own group first."""
    for row, state in enumerate(data.reader.read(data.customers.ids, AS_OF)):
        if row not in SILENT:
            cold = served(fitted[0], data, state)[list(COLD)]
            assert int(cold.argmax()) == row % GROUPS, row


@pytest.mark.parametrize("group", range(GROUPS))
def test_a_customer_known_by_a_feature_gets_what_those_like_them_buy(
    data: TrainingSet, fitted: tuple[Embeddings, Towers], group: int
) -> None:
    """New to the shop: first what was bought of the group, then the others."""
    found = served(fitted[0], data, CustomerState({REGION: f"r{group}"}))
    assert {int(p) // PER_GROUP for p in np.argsort(-found)[: PER_GROUP - 1]} == {group}


def test_nothing_known_is_nobody(data: TrainingSet, fitted: tuple[Embeddings, Towers]) -> None:
    assert served(fitted[0], data, CustomerState()) is None
    assert served(fitted[0], data, CustomerState({REGION: "r9", AGE: None})) is None


def test_same_seed_and_one_thread_same_vectors(data: TrainingSet, fitted: tuple[Embeddings, Towers]) -> None:
    again = two_tower.fit(described(), FITTED, seed=0, threads=1)
    model = fitted[0]
    assert again.products is not None and model.products is not None
    assert again.products.tobytes() == model.products.tobytes()
    for name, array in {**model.matrices, **model.weights}.items():
        assert {**again.matrices, **again.weights}[name].tobytes() == array.tobytes(), name
    other = two_tower.fit(described(), FITTED, seed=1, threads=1)
    assert other.products is not None and other.products.tobytes() != model.products.tobytes()


# --- the loss


def softmax_by_hand(towers: Towers, matrix: Matrix, batch: Any, pool: NDArray[np.int64]) -> float:
    """Return the mean cross-entropy of what customers hid, among all of ``pool``.

    Each hidden product counts by its weight, over how many the customer hid.
    """
    products, history_vectors, layers = exported(towers)
    weigher = HistoryWeights(WEIGHTS, index={}, as_of=AS_OF)
    tower = Tower(history_vectors, layers=layers, vocabulary=VOCABULARY, history=weigher)
    shown, features = batch.shown.toarray(), batch.features.toarray()
    row, place, _ = batch.target
    total, weights = 0.0, 0.0
    for r in range(len(shown)):
        hidden = batch.candidates[place[row == r]]
        pooled = shown[r] @ history_vectors
        pooled = pooled / max(np.linalg.norm(pooled), 1e-12)
        known = (pooled + features[r] @ layers["features"]).astype(np.float32)
        query = tower.forward(known)
        open_to = [p for p in pool.tolist() if not shown[r, p]]
        logits = products.astype(np.float64) @ query
        logarithm = np.log(np.exp(logits[open_to]).sum())
        told = matrix.toarray()[r, hidden].astype(np.float64)
        share = told / len(told)
        total += float((share * (logarithm - logits[hidden])).sum())
        weights += float(share.sum())
    return total / weights


def test_with_all_negatives_the_loss_is_the_full_softmax() -> None:
    generator = np.random.default_rng(3)
    matrix = sparse(25, PRODUCTS, generator, share=0.3)
    features = sp.csr_matrix((generator.random((25, 4)) < 0.4).astype(np.float32))
    towers, pool = random_towers(), np.arange(PRODUCTS)
    config = CONFIG.model_copy(update={"negatives": PRODUCTS})
    examples = Examples(matrix, features, pool=pool)
    for _ in range(3):
        batch = examples.batch(np.arange(20, dtype=np.int64), config, generator)
        with torch.no_grad():
            found = float(towers.loss(batch))
        # scores of size ten in single precision
        assert found == pytest.approx(softmax_by_hand(towers, matrix, batch, pool), rel=1e-5)


def test_drawn_negatives_stand_for_all_the_others() -> None:
    """The corrected sum of exponentials over candidates is the catalog's, on average over draws: it is unbiased."""
    generator = np.random.default_rng(4)
    examples = Examples(sparse(5, 400, generator), sparse(5, 0, generator), pool=np.arange(400))
    score, positives = generator.normal(0, 1.5, 400), np.array([3, 50, 399])
    sums = []
    for _ in range(3000):
        candidates, correction = examples._candidates(positives, 25, generator)
        assert candidates[:3].tolist() == positives.tolist() and not correction[:3].any()
        assert len(set(candidates.tolist())) == len(candidates)
        sums.append(np.exp(score[candidates] + correction).sum())
    error = np.std(sums) / np.sqrt(len(sums))
    assert error < 0.01 * np.exp(score).sum()
    # four standard errors of the mean of 3,000 draws: one run in 16,000 fails, and the seed is fixed
    assert abs(np.mean(sums) - np.exp(score).sum()) < 4 * error


def batch_customers(matrix: Matrix, asked: Float64, shown: Float32) -> list[int]:
    """Return which row of ``matrix`` each row of a batch is: what it shows and what it hides are the whole of it."""
    whole = (asked > 0) | (shown > 0)
    own = [np.flatnonzero(((matrix.toarray() > 0) == line).all(axis=1)).tolist() for line in whole]
    assert all(own)
    return [found[0] for found in own]


def test_what_is_shown_is_not_asked_for_and_everybody_is_asked_for_something() -> None:
    generator = np.random.default_rng(5)
    matrix = sparse(40, PRODUCTS, generator, share=0.15)
    features = sparse(40, 4, generator, share=0.5)
    examples = Examples(matrix, features, pool=np.arange(PRODUCTS))
    config = CONFIG.model_copy(update={"batch_size": 16, "negatives": 8, "id_dropout": 0.3})
    seen: list[int] = []
    for batch in examples.epoch(config, generator):
        size = batch.shown.shape[0]
        row, place, share = batch.target
        asked = sp.csr_matrix(
            (np.ones(len(row)), (row, batch.candidates[place])), shape=batch.shown.shape
        ).toarray()
        shown = batch.shown.toarray()
        assert not (asked * shown).any()
        weights = np.array([matrix.toarray()[own] for own in batch_customers(matrix, asked, shown)])
        mean = (weights * asked).sum(axis=1) / asked.sum(axis=1)
        np.testing.assert_allclose(
            np.bincount(row, weights=share, minlength=size), mean, rtol=1e-6
        )  # float32
        seen += batch_customers(matrix, asked, shown)
        masked = set(zip(batch.masked[0].tolist(), batch.candidates[batch.masked[1]].tolist(), strict=True))
        on_offer = set(batch.candidates.tolist())
        assert masked == {
            (int(r), int(p)) for r, p in zip(*np.nonzero(shown), strict=True) if int(p) in on_offer
        }
        assert (asked.sum(axis=1) > 0).all() and (shown.sum(axis=1) > 0).all()
    assert sorted(seen) == np.flatnonzero(np.diff(matrix.indptr) > 1).tolist()


# --- what is held out


@pytest.mark.parametrize("customers", [3, 60, 400])
def test_held_out_pairs_are_not_trained_on(customers: int) -> None:
    generator = np.random.default_rng(customers)
    matrix = sparse(customers, PRODUCTS, generator, share=0.2, empty=0)
    features = sparse(customers, 4, generator)
    judge, kept = Judge.hold_out(matrix, features, np.random.default_rng(0))
    whole, rest = matrix.toarray(), kept.toarray()
    lost = (whole > 0) & (rest == 0)
    chosen = np.flatnonzero(lost.any(axis=1))
    able = (whole > 0).sum(axis=1) >= 2
    assert len(chosen) == max(able.sum() // 10, 1) and able[chosen].all()
    assert np.array_equal(rest, np.where(lost, 0.0, whole))
    assert np.array_equal(judge.held_out.toarray(), np.where(lost, whole, 0.0)[chosen])
    assert np.array_equal(judge.shown.toarray(), rest[chosen])
    assert np.array_equal(judge.features.toarray(), features.toarray()[chosen])
    fifth = np.maximum(np.round(0.2 * (whole > 0).sum(axis=1)), 1)
    assert np.array_equal(lost.sum(axis=1)[chosen], fifth[chosen])
    assert judge.held_out.nnz == lost.sum() and kept.nnz == (rest > 0).sum()


def test_the_judge_is_the_mean_ndcg_of_the_held_out() -> None:
    towers, generator = random_towers(), np.random.default_rng(6)
    matrix, features = sparse(50, PRODUCTS, generator, share=0.3), sparse(50, 4, generator)
    judge, _ = Judge.hold_out(matrix, features, generator)
    with torch.no_grad():
        scores = (towers.customers(judge.shown, judge.features) @ towers.products().T).double().numpy()
    scores[judge.shown.toarray() > 0] = -np.inf
    held = judge.held_out.toarray() > 0
    discount = 1 / np.log2(np.arange(2, 22))
    ranked = np.argsort(-scores, axis=1)[:, :20]
    gained = (np.take_along_axis(held, ranked, axis=1) * discount).sum(axis=1)
    best = [discount[: int(wanted.sum())].sum() for wanted in held]
    # summed in double precision on both sides; the order of near ties is the same for the same scores
    assert judge.score(towers) == pytest.approx(np.mean(gained / best), rel=1e-9)


def test_nobody_to_judge_by() -> None:
    one_each = sp.csr_matrix(np.eye(4, PRODUCTS, dtype=np.float32))
    judge, kept = Judge.hold_out(one_each, sparse(4, 4, np.random.default_rng(0)), np.random.default_rng(0))
    assert np.array_equal(kept.toarray(), one_each.toarray())
    assert judge.score(random_towers()) == 0.0
