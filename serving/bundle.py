"""The bundle: the only thing that crosses from training to serving, a directory of data files.

``save`` stages it beside its final place, syncs it and renames it, so a killed publisher leaves no half
bundle. ``load`` checks name, schema, file list, sizes and checksums before any parser sees a byte. No
object is ever serialised: Parquet, NumPy without pickle, FAISS's own format, JSON.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import yaml
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load_file
from safetensors.numpy import save as to_bytes

from feature_repo import names as v
from feature_repo import schema as s
from serving.catalog import Catalog
from serving.errors import BundleError
from serving.index import ProductIndex
from serving.manifest import SCHEMA_VERSION, FileInfo, Manifest, version_of
from serving.ranker import Calibration, Ranker, Trees
from serving.subject import Bought

Float32 = NDArray[np.float32]
Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]

NAME: Final = "nextbest"
MANIFEST: Final = "manifest.json"
GOLDEN: Final = "golden.json"
MODEL_YAML: Final = "model.yaml"
_SEGMENTS: Final = "segments.json"
_STAGING: Final = ".staging-"
_WEIGHTS: Final = "encoder.safetensors"
_MATRIX: Final = "encoder-"
_ORDER: Final = "ranker.txt"
_CHANCE: Final = "chance.txt"
_CALIBRATION: Final = "calibration.json"
_RANKED: Final = "ranker_products"
_PURCHASED: Final = ("indptr", "products", "days", "at")
_FIRST: Final = "purchased_first"


@dataclass(frozen=True)
class Purchased:
    """Who had bought what when the bundle was made, one row a customer (CSR).

    Customer row r bought ``products[indptr[r]:indptr[r + 1]]``, ascending, each on ``days`` distinct days, last at
    ``at`` and first at ``first`` (µs since 1970; None in bundles that do not tell).
    """

    indptr: Int64
    products: Int32
    days: Int32
    at: Int64
    first: Int64 | None = None

    def bought(self, row: int | None) -> Bought:
        """Return what one customer row bought; nothing for None."""
        bounds = slice(0, 0) if row is None else slice(int(self.indptr[row]), int(self.indptr[row + 1]))
        first = None if self.first is None else self.first[bounds]
        return Bought(self.products[bounds], self.days[bounds], self.at[bounds], first)


@dataclass(frozen=True)
class Bundle:
    """A model ready to serve, in memory.

    ``popular`` orders all products (best first) with ``popular_scores``; ``segments`` holds the favourite
    products of each segment; ``vectors`` is (products, d), None for recipes without vectors. ``matrices`` (a row a
    product or a customer) and ``weights`` (small) are what the encoder needs, by name.
    """

    manifest: Manifest
    catalog: Catalog
    customers: pd.DataFrame
    purchased: Purchased
    popular: Int32
    popular_scores: Float32
    segments: Mapping[str, Int32]
    vectors: Float32 | None = None
    matrices: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    weights: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    index: ProductIndex | None = None
    ranker: Ranker | None = None
    golden: list[dict[str, Any]] = field(default_factory=list)
    version: str = ""

    @property
    def tag(self) -> str:
        """``name:version`` as BentoML writes it."""
        return f"{NAME}:{self.version}"


def save(bundle: Bundle, bundles: Path, *, texts: Mapping[str, str]) -> str:
    """Write ``bundle`` below ``bundles`` and return its version.

    Parameters
    ----------
    bundle
        With golden answers; its manifest's ``files`` are filled in here.
    bundles
        Directory that holds one folder a version.
    texts
        Further text files (``metrics.json``, ``MODEL_CARD.md``).
    """
    bundles.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=_STAGING, dir=bundles))
    try:
        inside = staging / "bundle"
        inside.mkdir()
        _write_parts(bundle, inside)
        for name, text in texts.items():
            (inside / name).write_text(text)
        files = {path.name: _describe(path) for path in sorted(inside.iterdir())}
        manifest = bundle.manifest.model_copy(update={"files": files})
        (inside / MANIFEST).write_bytes(manifest.to_bytes())
        version = version_of(manifest.created_at, manifest.to_bytes())
        (staging / MODEL_YAML).write_text(_model_yaml(manifest, version))
        for path in [*inside.iterdir(), staging / MODEL_YAML, inside, staging]:
            _sync(path)
        final = bundles / version
        if final.exists():
            shutil.rmtree(staging)
        else:
            staging.chmod(inside.stat().st_mode & 0o777)  # as the umask has it; mkdtemp keeps others out
            staging.rename(final)
            _sync(bundles)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    return version


def sweep(bundles: Path) -> None:
    """Remove what killed publishers left half written; call it only where nobody else publishes."""
    for left in bundles.glob(f"{_STAGING}*"):
        shutil.rmtree(left, ignore_errors=True)


def remove(bundles: Path, version: str) -> None:
    """Remove the bundle ``version`` in one step, as far as anybody can see; an absent one is no error."""
    root = bundles / version
    if root.is_dir():
        shutil.rmtree(root.replace(bundles / f"{_STAGING}{version}"), ignore_errors=True)


def load(bundles: Path, version: str) -> Bundle:
    """Verify and load the bundle ``version``.

    Raises
    ------
    BundleError
        It is missing, incomplete, altered in any byte, or of a newer schema.
    """
    root = bundles / version
    inside = root / "bundle"
    manifest = verify(root, version)
    try:
        catalog = Catalog(pd.read_parquet(inside / "catalog.parquet"))
        vectors, index = None, None
        if "product_vectors.npy" in manifest.files:
            vectors = _array(inside, "product_vectors")
            index = ProductIndex.load(inside / "products.faiss", vectors=vectors, told=manifest.index)
        segments = json.loads((inside / _SEGMENTS).read_text())
        return Bundle(
            manifest=manifest,
            catalog=catalog,
            customers=pd.read_parquet(inside / "customers.parquet"),
            purchased=Purchased(
                **{part: _array(inside, f"purchased_{part}") for part in _PURCHASED},
                first=_array(inside, _FIRST) if f"{_FIRST}.npy" in manifest.files else None,
            ),
            popular=_array(inside, "popular"),
            popular_scores=_array(inside, "popular_scores"),
            segments={name: np.array(rows, dtype=np.int32) for name, rows in segments.items()},
            vectors=vectors,
            matrices={name: _array(inside, path) for path, name in _matrices(manifest).items()},
            weights=load_file(inside / _WEIGHTS) if _WEIGHTS in manifest.files else {},
            index=index,
            ranker=_ranker(inside) if _ORDER in manifest.files else None,
            golden=json.loads((inside / GOLDEN).read_text()),
            version=version,
        )
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise BundleError(f"expected a loadable bundle {version}, found: {error}; publish it anew") from error


def verify(root: Path, version: str) -> Manifest:
    """Check name, schema, file list, sizes and checksums of the bundle at ``root``; return its manifest.

    Raises
    ------
    BundleError
        Anything differs from what was published.
    """
    inside = root / "bundle"
    again = "publish another (`nextbest models` lists them) or train anew"
    try:
        told = (inside / MANIFEST).read_bytes()
    except OSError as error:
        raise BundleError(f"expected a bundle at {inside}, found no {MANIFEST}; {again}") from error
    if not version.endswith("-" + hashlib.sha256(told).hexdigest()[:12]):
        raise BundleError(
            f"expected the {MANIFEST} that {version} was published with, found it altered; {again}"
        )
    try:
        number = json.loads(told).get("schema_version")
    except (ValueError, AttributeError) as error:
        raise BundleError(f"expected JSON in {MANIFEST}, found {error}; {again}") from error
    if number != SCHEMA_VERSION:
        raise BundleError(
            f"expected bundle schema {SCHEMA_VERSION}, found {number} in {version}; "
            "serve it with the version of nextbest that made it"
        )
    try:
        manifest = Manifest.model_validate_json(told)
    except ValidationError as error:
        raise BundleError(
            f"expected a valid {MANIFEST}, found {error.errors()[0]['msg']}; {again}"
        ) from error
    found = {str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir()}
    listed = {f"bundle/{name}" for name in (*manifest.files, MANIFEST)} | {MODEL_YAML}
    if found != listed:
        name = sorted(found ^ listed)[0]
        state = "found an added" if name in found else "found no"
        raise BundleError(f"expected exactly the published files in {version}, {state} {name}; {again}")
    if (root / MODEL_YAML).read_bytes() != _model_yaml(manifest, version).encode():
        raise BundleError(f"expected the published {MODEL_YAML} in {version}, found it altered; {again}")
    for name, info in manifest.files.items():
        if _describe(inside / name) != info:
            raise BundleError(f"expected the published {name} in {version}, found it altered; {again}")
    return manifest


def _write_parts(bundle: Bundle, inside: Path) -> None:
    bundle.catalog.frame.to_parquet(inside / "catalog.parquet", index=False)
    bundle.customers[[s.CUSTOMER_ID, v.SEGMENT]].to_parquet(inside / "customers.parquet", index=False)
    arrays: dict[str, NDArray[Any] | None] = {
        **{f"purchased_{part}": getattr(bundle.purchased, part) for part in _PURCHASED},
        _FIRST: bundle.purchased.first,
        "popular": bundle.popular,
        "popular_scores": bundle.popular_scores,
        "product_vectors": bundle.vectors,
        _RANKED: None if bundle.ranker is None else bundle.ranker.products,
        **{_MATRIX + name.replace("/", "--"): array for name, array in bundle.matrices.items()},
    }
    for name, array in arrays.items():
        if array is not None:
            np.save(inside / f"{name}.npy", array, allow_pickle=False)
    if bundle.weights:
        weights = {name: np.ascontiguousarray(array) for name, array in bundle.weights.items()}
        # not by its own writer, which gives the file to its owner alone
        (inside / _WEIGHTS).write_bytes(to_bytes(weights))
    if bundle.index is not None:
        bundle.index.save(inside / "products.faiss")
    if bundle.ranker is not None:
        (inside / _ORDER).write_text(bundle.ranker.order.text)
        (inside / _CHANCE).write_text(bundle.ranker.chance.text)
        (inside / _CALIBRATION).write_text(bundle.ranker.calibration.to_json())
    segments = {name: rows.tolist() for name, rows in sorted(bundle.segments.items())}
    (inside / _SEGMENTS).write_text(json.dumps(segments, ensure_ascii=False))
    (inside / GOLDEN).write_text(json.dumps(bundle.golden, ensure_ascii=False, indent=1))


def _ranker(inside: Path) -> Ranker:
    calibration = Calibration.from_json((inside / _CALIBRATION).read_text())
    order, chance = (Trees((inside / name).read_text()) for name in (_ORDER, _CHANCE))
    return Ranker(order, chance, calibration, _array(inside, _RANKED))


def _matrices(manifest: Manifest) -> dict[str, str]:
    """Return the encoder's matrices: file (without ending) → name."""
    found = [name.removesuffix(".npy") for name in manifest.files if name.startswith(_MATRIX)]
    return {path: path.removeprefix(_MATRIX).replace("--", "/") for path in found}


def _array(inside: Path, name: str) -> NDArray[Any]:
    """Map an array into memory, so that workers share its pages."""
    mapped = np.load(inside / f"{name}.npy", mmap_mode="r", allow_pickle=False)
    return np.asarray(mapped)  # a plain view of the same pages: each access to a memmap costs microseconds


def _describe(path: Path) -> FileInfo:
    with path.open("rb") as handle:
        digest = hashlib.file_digest(handle, "sha256").hexdigest()
    return FileInfo(size=path.stat().st_size, sha256=digest)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _model_yaml(manifest: Manifest, version: str) -> str:
    """Return BentoML's own description of the model, so that ``bentoml models list`` knows it."""
    told = {
        "name": NAME,
        "version": version,
        "module": "",
        "labels": {"model": manifest.policy.model},
        "options": {},
        "metadata": {"as_of": manifest.data.as_of.isoformat()},
        "context": {
            "framework_name": NAME,
            "framework_versions": {NAME: manifest.code_version},
            "bentoml_version": manifest.packages.get("bentoml", ""),
            "python_version": manifest.packages.get("python", ""),
        },
        "signatures": {},
        "api_version": "v1",
        "creation_time": manifest.created_at.isoformat(),
    }
    text: str = yaml.safe_dump(told, sort_keys=False)
    return text
