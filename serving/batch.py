"""The top products of every customer of a bundle, as Parquet files in one directory.

Each list is what ``Recommender.recommend`` answers, but for ties and what its index misses where that is approximate:
here every product is scored. Where vectors alone make the answer, all customers of a chunk are searched at once;
whoever is left is answered one by one. Nothing but a chunk of customer states and one part's lists is in memory. Parts
are staged inside the directory and moved into place when all are written, the summary last: a directory without it is
not complete. Deliberately absent: reasons and names, which the catalog has.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from pathlib import Path
from time import perf_counter
from typing import IO, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from feature_repo import schema as s
from serving.errors import ConfigError
from serving.recommender import PurchasedPolicy, Query, Recommender
from serving.scoring import Blocked, top

Float32 = NDArray[np.float32]
Int32 = NDArray[np.int32]
Progress = Callable[[str, int, int], None]

SUMMARY: Final = "recommendations.json"
RANK: Final = "rank"
SCORE: Final = "score"
SOURCE: Final = "source"
COLUMNS: Final = pa.schema(
    {
        s.CUSTOMER_ID: pa.string(),
        RANK: pa.int32(),
        s.PRODUCT_ID: pa.string(),
        SCORE: pa.float32(),
        SOURCE: pa.string(),
    }
)
_STAGING: Final = ".nextbest-staging"
_LOCK: Final = "lock"
_PART: Final = re.compile(r"part-\d{5,}\.parquet")
_PART_CUSTOMERS: Final = 20_000
_CHUNK: Final = 1000


@dataclass(frozen=True)
class Summary:
    """What a run wrote; ``recommendations.json`` holds these fields.

    ``searched`` counts the customers answered by batched search, ``without_features`` those whose features the
    online store did not give; ``rows`` is below ``customers · n`` where fewer than n products pass the hard rules.
    """

    bundle: str
    at: str
    n: int
    purchased: PurchasedPolicy
    customers: int
    rows: int
    parts: int
    searched: int
    without_features: int
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Return the fields by name."""
        return asdict(self)


@dataclass(frozen=True)
class Lists:
    """Ranked lists of some customers, all (customers, n).

    ``products`` holds indices, −1 beyond the end of a list; ``scores`` and ``sources`` (names) belong to them.
    ``searched`` counts the customers answered by batched search.
    """

    products: Int32
    scores: Float32
    sources: NDArray[np.object_]
    searched: int


def rank(
    recommender: Recommender,
    customer_ids: Sequence[str],
    *,
    at: datetime,
    n: int,
    purchased: PurchasedPolicy = "exclude",
) -> Lists:
    """Return the top ``n`` of each customer: ``Recommender.recommend`` but for ties and what its index misses.

    All states are read, and held, at once: ask for some thousand customers at most.
    """
    queries = [Query(at=at, customer_id=customer, n=n, purchased=purchased) for customer in customer_ids]
    states = recommender.states(queries)
    searches = [recommender.search(query, state) for query, state in zip(queries, states, strict=True)]
    products = np.full((len(queries), n), -1, dtype=np.int32)
    scores = np.full((len(queries), n), np.nan, dtype=np.float32)
    sources = np.full((len(queries), n), None, dtype=np.object_)
    rows = [row for row, search in enumerate(searches) if search is not None]
    found = [search for search in searches if search is not None]
    bundle = recommender.bundle
    if found and bundle.vectors is not None:
        held_back = [search.held_back for search in found]
        blocked = Blocked(
            np.cumsum([0, *map(len, held_back)], dtype=np.int64), np.concatenate(held_back, dtype=np.int32)
        )
        products[rows], scores[rows] = top(
            np.stack([search.vector for search in found]),
            bundle.vectors,
            n,
            allowed=recommender.searchable(at),
            blocked=blocked,
        )
        sources[rows] = np.array([search.source for search in found], dtype=np.object_)[:, None]
    others = np.flatnonzero(products[:, -1] < 0)
    for row in others.tolist():
        items = recommender.answer(queries[row], states[row]).items
        products[row, : len(items)] = [bundle.catalog.index[item.product_id] for item in items]
        products[row, len(items) :] = -1
        scores[row, : len(items)] = [item.score for item in items]
        sources[row, : len(items)] = [item.source for item in items]
    return Lists(products, scores, sources, len(queries) - len(others))


def write(
    recommender: Recommender,
    directory: Path,
    *,
    at: datetime,
    n: int,
    purchased: PurchasedPolicy = "exclude",
    progress: Progress | None = None,
) -> Summary:
    """Write the top ``n`` of every customer of the bundle into ``directory``.

    Parameters
    ----------
    recommender
        Of the bundle, with the features to answer from.
    directory
        Made, filled when empty, replaced when it holds a former result. A run that fails leaves that as it was.
    at
        The instant that is asked for.
    n
        How many products a customer.
    purchased
        What becomes of products bought before.
    progress
        Called with ("customers", done, all).

    Raises
    ------
    ConfigError
        The directory holds something else, or another run is writing into it.
    """
    began = perf_counter()
    customers = recommender.bundle.customers[s.CUSTOMER_ID].astype(str).tolist()
    rows, searched, without = 0, 0, 0
    with _replacing(directory) as staging:
        starts = range(0, max(len(customers), 1), _PART_CUSTOMERS)
        for number, start in enumerate(starts):
            part = customers[start : start + _PART_CUSTOMERS]
            tables = [COLUMNS.empty_table()]
            for first in range(0, len(part), _CHUNK):
                chunk = part[first : first + _CHUNK]
                failed = recommender.degraded["features"]
                lists = rank(recommender, chunk, at=at, n=n, purchased=purchased)
                without += len(chunk) * (recommender.degraded["features"] > failed)
                searched += lists.searched
                tables.append(_table(lists, chunk, recommender.bundle.catalog.ids))
                rows += len(tables[-1])
                if progress is not None:
                    progress("customers", start + first + len(chunk), len(customers))
            with (staging / f"part-{number:05d}.parquet").open("wb") as file:
                pq.write_table(pa.concat_tables(tables), file)
                _sync(file)
        summary = Summary(
            bundle=recommender.bundle.tag,
            at=at.isoformat(),
            n=n,
            purchased=purchased,
            customers=len(customers),
            rows=rows,
            parts=len(starts),
            searched=searched,
            without_features=without,
            seconds=round(perf_counter() - began, 2),
        )
        with (staging / SUMMARY).open("w") as file:
            file.write(json.dumps(summary.to_json(), indent=1) + "\n")
            _sync(file)
    return summary


def _table(lists: Lists, customer_ids: Sequence[str], product_ids: Sequence[str]) -> pa.Table:
    """Return the lists as rows of ``COLUMNS``, customer by customer in rank order."""
    row, place = np.nonzero(lists.products >= 0)
    return pa.table(
        {
            s.CUSTOMER_ID: pa.array(customer_ids, pa.string()).take(pa.array(row)),
            RANK: (place + 1).astype(np.int32),
            s.PRODUCT_ID: pa.array(product_ids, pa.string()).take(pa.array(lists.products[row, place])),
            SCORE: lists.scores[row, place],
            SOURCE: lists.sources[row, place],
        },
        schema=COLUMNS,
    )


@contextmanager
def _replacing(directory: Path) -> Iterator[Path]:
    """Yield a directory to write into; what is there in the end takes the place of a former result.

    It lies inside ``directory``, which may be a mount point; as long as it exists the directory is known as ours.

    Raises
    ------
    ConfigError
        The directory holds something else, or another run is writing into it.
    """
    _refuse_others(directory)
    staging = directory / _STAGING
    staging.mkdir(parents=True, exist_ok=True)
    with (staging / _LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(
                f"expected {directory} free for this run, found another run writing into it; "
                "wait for it or choose another directory"
            ) from error
        try:
            _clear(staging)
            yield staging
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            raise
        (directory / SUMMARY).unlink(missing_ok=True)
        _clear(directory)
        for part in sorted(staging.glob("*.parquet")):
            part.rename(directory / part.name)
        (staging / SUMMARY).rename(directory / SUMMARY)
        shutil.rmtree(staging)


def _refuse_others(directory: Path) -> None:
    if not directory.is_dir():
        if directory.exists():
            raise ConfigError(f"expected a directory, found the file {directory}; choose another path")
        return
    held = sorted(path.name for path in directory.iterdir())
    ours = _STAGING in held or _is_summary(directory / SUMMARY)
    others = [name for name in held if not ours or not (name in (_STAGING, SUMMARY) or _PART.fullmatch(name))]
    if others:
        raise ConfigError(
            f"expected an empty directory or a former result, found {others[0]} in {directory}; "
            "choose another directory"
        )


def _is_summary(path: Path) -> bool:
    try:
        told = json.loads(path.read_text())
    except (OSError, ValueError):
        return False
    return isinstance(told, dict) and told.keys() >= {field.name for field in fields(Summary)}


def _clear(directory: Path) -> None:
    """Delete the parts of a former run."""
    for path in directory.iterdir():
        if _PART.fullmatch(path.name):
            path.unlink()


def _sync(file: IO[Any]) -> None:
    file.flush()
    os.fsync(file.fileno())
