"""Tokens of customers and products for the hybrid models: learnt vocabularies, and rows as sparse matrices.

What a token is, ``serving.encoders.vocabulary`` says, since the service makes those of a customer as well. Products
are described by the catalog as it was known at ``as_of``: category, price, attributes, and the name as hashed
character n-grams, which serve any script.
"""

from __future__ import annotations

import unicodedata
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
import pandas as pd
import scipy.sparse as sp

from feature_repo import names as v
from feature_repo import schema as s
from serving.catalog import Catalog
from serving.encoders.vocabulary import Vocabulary, tokens
from training.dataset import TrainingSet

Row = Mapping[str, Any]
_BANDS: Final = 8
_NGRAMS: Final = (1, 2, 3, 4)


def learn(rows: Sequence[Row], *, min_count: int) -> Vocabulary:
    """Return the vocabulary of rows: bands of eight equal parts for numbers, tokens of at least ``min_count`` rows."""
    numbers: dict[str, list[float]] = {}
    for row in rows:
        for name, value in row.items():
            is_number = isinstance(value, int | float | np.number) and not isinstance(value, bool | np.bool_)
            if is_number and np.isfinite(value):
                numbers.setdefault(name, []).append(float(value))
    inner = np.linspace(0, 1, _BANDS + 1)[1:-1]
    edges = {name: tuple(np.unique(np.quantile(held, inner)).tolist()) for name, held in numbers.items()}
    counted: Counter[str] = Counter()
    for row in rows:
        counted.update(set(tokens(row, edges)))
    kept = sorted(token for token, count in counted.items() if count >= min_count)
    return Vocabulary(tokens=tuple(kept), edges=edges)


def matrix(rows: Sequence[Row], vocabulary: Vocabulary) -> sp.csr_matrix[np.float32]:
    """Return which tokens each row has (rows × vocabulary), as ones."""
    found = [vocabulary.places(row) for row in rows]
    indptr = np.cumsum([0, *(len(places) for places in found)])
    indices = np.concatenate([np.empty(0, dtype=np.int32), *found])
    ones = np.ones(len(indices), dtype=np.float32)
    return sp.csr_matrix((ones, indices, indptr), shape=(len(found), len(vocabulary.tokens)))


def customer_rows(data: TrainingSet) -> list[Row]:
    """Return the attributes of each customer as known at ``as_of``.

    Attributes only: features of behaviour are made from the very purchases a model is asked to foresee, and would
    give them away; behaviour comes in through the history.
    """
    states = data.reader.read(data.customers.ids, data.as_of)
    lead = v.row_key(v.CUSTOMER_ATTRIBUTES, "")
    return [{name: value for name, value in state.row.items() if name.startswith(lead)} for state in states]


def product_rows(catalog: Catalog) -> list[Row]:
    """Return what describes each product but its name: category, price and attributes, where known."""
    frame = catalog.frame[[s.CATEGORY, s.PRICE, *catalog.attributes]]
    dated = [name for name in frame if pd.api.types.is_datetime64_any_dtype(frame[name])]
    rows: list[Row] = []
    for record in frame.drop(columns=dated).to_dict("records"):
        rows.append({str(name): value for name, value in record.items() if _told(value)})
    return rows


def _told(value: Any) -> bool:
    return not (value is None or (pd.api.types.is_scalar(value) and bool(pd.isna(value))))


def name_grams(catalog: Catalog, buckets: int) -> sp.csr_matrix[np.float32]:
    """Return the hashed character n-grams of the names (products × buckets), each row of length one.

    N-grams of one to four characters within words, whose ends are marked; case and width are folded, so that they
    serve alphabets and scripts without spaces alike. Hashed by CRC-32, the same in every process.
    """
    rows = [Counter(zlib.crc32(gram.encode()) % buckets for gram in grams(name)) for name in catalog.names]
    indptr = np.cumsum([0, *(len(row) for row in rows)])
    indices = np.array([bucket for row in rows for bucket in sorted(row)], dtype=np.int32)
    data = np.array([row[bucket] for row in rows for bucket in sorted(row)], dtype=np.float64)
    counts = sp.csr_matrix((data, indices, indptr), shape=(len(rows), buckets))
    length = np.sqrt(np.asarray(counts.multiply(counts).sum(axis=1))).ravel()
    return (sp.diags(1.0 / np.maximum(length, 1e-12)) @ counts).tocsr().astype(np.float32)


def grams(name: str | None) -> Iterator[str]:
    """Yield the character n-grams of a name; nothing for none."""
    for word in _words(name or ""):
        for size in _NGRAMS:
            yield from (word[start : start + size] for start in range(len(word) - size + 1))


def _words(name: str) -> Iterable[str]:
    return (f"<{word}>" for word in unicodedata.normalize("NFKC", name).casefold().split())
