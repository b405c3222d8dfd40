"""Bundle laws: any altered byte, lost or added file, or newer schema is refused; a killed publisher leaves nothing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving import golden
from serving.bundle import GOLDEN, MANIFEST, Bundle, load, save, verify
from serving.errors import BundleError
from serving.features import FrameReader
from serving.manifest import SCHEMA_VERSION, version_of
from serving.recommender import Query, Recommender
from tests.builders import AT, make_bundle, state
from tests.conftest import Published


def stored(directory: Path, seed: int = 0) -> tuple[Path, str]:
    bundle = make_bundle(seed)
    cases = [(Query(at=AT, n=5), state([("p001", "view", 1.0)])), (Query(at=AT, n=5), state([]))]
    bundle = Bundle(
        **{**bundle.__dict__, "golden": golden.record(Recommender(bundle, FrameReader({})), cases)}
    )
    return directory, save(bundle, directory, texts={"MODEL_CARD.md": "# toy\n", "metrics.json": "{}"})


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    return stored(tmp_path_factory.mktemp("bundles"))


@pytest.fixture
def copied(saved: tuple[Path, str], tmp_path: Path) -> tuple[Path, str]:
    shutil.copytree(saved[0], tmp_path / "bundles")
    return tmp_path / "bundles", saved[1]


def files_of(bundles: Path, version: str) -> list[Path]:
    return sorted(path for path in (bundles / version).rglob("*") if path.is_file())


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_all_files_are_for_those_whom_the_umask_lets_in(tmp_path: Path, umask: int) -> None:
    weights = {"a": np.arange(3, dtype=np.float32)}
    held = os.umask(umask)
    try:
        version = save(replace(make_bundle(), weights=weights), tmp_path, texts={"MODEL_CARD.md": "# toy\n"})
    finally:
        os.umask(held)
    root = tmp_path / version
    assert {path.stat().st_mode & 0o777 for path in files_of(tmp_path, version)} == {0o666 & ~umask}
    assert {path.stat().st_mode & 0o777 for path in (root, root / "bundle")} == {0o777 & ~umask}
    assert load(tmp_path, version).weights["a"].tolist() == [0.0, 1.0, 2.0]


def test_round_trip_gives_the_same_answers(saved: tuple[Path, str]) -> None:
    before, after = make_bundle(), load(*saved)
    assert after.version == saved[1]
    assert np.array_equal(before.vectors, after.vectors)  # type: ignore[arg-type]
    assert after.purchased.bought(3).last.tolist() == before.purchased.bought(3).last.tolist()
    assert len(after.purchased.bought(3).last) > 0
    recommenders = [Recommender(bundle, FrameReader({})) for bundle in (before, after)]
    query = Query(at=AT, customer_id="c04", n=12)
    first, second = (r.answer(query, state([("p002", "purchase", 3.0)])) for r in recommenders)
    assert first == second
    assert golden.replay(recommenders[1]) == 2


def test_every_file_is_covered_at_several_places(copied: tuple[Path, str]) -> None:
    """Flip one byte at the beginning, in the middle and at the end of every single file."""
    bundles, version = copied
    paths = files_of(bundles, version)
    assert {path.name for path in paths} >= {
        MANIFEST,
        GOLDEN,
        "catalog.parquet",
        "products.faiss",
        "model.yaml",
    }
    for path in paths:
        whole = path.read_bytes()
        for place in {0, len(whole) // 2, len(whole) - 1}:
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            with pytest.raises(BundleError):
                load(bundles, version)
        path.write_bytes(whole)
    assert load(bundles, version).version == version


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_byte(saved: tuple[Path, str], data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(files_of(*saved)))
    whole = path.read_bytes()
    place = data.draw(st.integers(min_value=0, max_value=len(whole) - 1))
    bit = data.draw(st.integers(min_value=0, max_value=7))
    try:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << bit)]) + whole[place + 1 :])
        with pytest.raises(BundleError):
            load(*saved)
    finally:
        path.write_bytes(whole)


def test_a_lost_or_cut_file_is_refused(copied: tuple[Path, str]) -> None:
    bundles, version = copied
    for path in files_of(bundles, version):
        whole = path.read_bytes()
        path.unlink()
        with pytest.raises(BundleError):
            load(bundles, version)
        path.write_bytes(whole[:-1])
        with pytest.raises(BundleError):
            load(bundles, version)
        path.write_bytes(whole)


@pytest.mark.parametrize("name", ["bundle/more.npy", "more.txt", "bundle/deep/er.json", "bundle/.hidden"])
def test_an_added_file_is_refused(copied: tuple[Path, str], name: str) -> None:
    bundles, version = copied
    path = bundles / version / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"x")
    with pytest.raises(BundleError, match="found an added"):
        load(bundles, version)


def test_a_newer_schema_is_refused_though_whole(copied: tuple[Path, str]) -> None:
    bundles, version = copied
    path = bundles / version / "bundle" / MANIFEST
    told = json.loads(path.read_bytes())
    told["schema_version"] = SCHEMA_VERSION + 1
    path.write_text(json.dumps(told))
    renamed = version_of(datetime(2026, 3, 1, tzinfo=UTC), path.read_bytes())
    (bundles / version).rename(bundles / renamed)
    with pytest.raises(
        BundleError, match=f"expected bundle schema {SCHEMA_VERSION}, found {SCHEMA_VERSION + 1}"
    ):
        load(bundles, renamed)


def test_a_missing_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="expected a bundle at"):
        verify(tmp_path / "202601010000-abcdefabcdef", "202601010000-abcdefabcdef")


def test_another_bundle_under_this_name_is_refused(copied: tuple[Path, str]) -> None:
    bundles, version = copied
    _, other = stored(bundles, seed=1)
    shutil.rmtree(bundles / version)
    (bundles / other).rename(bundles / version)
    with pytest.raises(BundleError, match="altered"):
        load(bundles, version)


def test_golden_answers_that_differ_are_refused(saved: tuple[Path, str]) -> None:
    bundle = load(*saved)
    case = {**bundle.golden[0], "answer": bundle.golden[0]["answer"][::-1]}
    other = Bundle(**{**bundle.__dict__, "golden": [case]})
    with pytest.raises(BundleError, match="golden query 0"):
        golden.replay(Recommender(other, FrameReader({})))


def test_golden_ties_may_change_places() -> None:
    bundle = make_bundle()
    answer = Recommender(bundle, FrameReader({})).answer(Query(at=AT, n=3), state([("p001", "view", 1.0)]))
    rows = [[item.product_id, item.score] for item in answer.items]
    assert golden.same(answer, rows)
    tied = [[rows[1][0], rows[0][1]], [rows[0][0], rows[0][1]], rows[2]]
    assert golden.same(answer, tied) == (
        abs(rows[0][1] - rows[1][1]) <= golden.TOLERANCE * max(1, abs(rows[0][1]))
    )
    assert not golden.same(answer, rows[:2])


def test_no_pickle_in_a_published_bundle(published: Published) -> None:
    version = published.report.version
    names = {path.suffix for path in files_of(published.settings.bundles, version)}
    assert names <= {".json", ".parquet", ".npy", ".faiss", ".md", ".yaml", ".safetensors"}
    for path in files_of(published.settings.bundles, version):
        if path.suffix == ".npy":
            np.load(path, allow_pickle=False)


def test_bentoml_lists_it(published: Published) -> None:
    told = subprocess.run(
        [sys.executable, "-m", "bentoml", "models", "list", "-o", "json"],
        env={
            **os.environ,
            "BENTOML_HOME": str(published.settings.bentoml_home),
            "BENTOML_DO_NOT_TRACK": "true",
        },
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"nextbest:{published.report.version}" in told.stdout


_SAVE_FOREVER = """
from pathlib import Path
import sys
from serving.bundle import save
from tests.builders import make_bundle
seed = int(sys.argv[2])
while True:
    print(save(make_bundle(seed, products=400, factors=64), Path(sys.argv[1]), texts={}), flush=True)
    seed += 1
"""


def test_a_killed_publisher_leaves_only_whole_bundles(tmp_path: Path) -> None:
    for number, milliseconds in enumerate((40, 90, 150, 230)):
        process = subprocess.Popen(
            # seeds of its own: each has saved one bundle at the least that no other saves
            [sys.executable, "-c", textwrap.dedent(_SAVE_FOREVER), str(tmp_path), str(1000 * number)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[1],
        )
        assert process.stdout is not None
        process.stdout.readline()
        try:
            process.wait(timeout=milliseconds / 1000)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    found = [path.name for path in tmp_path.iterdir() if not path.name.startswith(".staging-")]
    assert len(found) >= 4
    for version in found:
        assert load(tmp_path, version).version == version
