"""MovieLens ratings as the tables of the contract, in both of the forms in which GroupLens publishes them.

``ml-1m`` has ``ratings.dat``, ``movies.dat`` and ``users.dat`` (``::`` between fields, Latin-1); ``ml-latest`` and
``ml-25m`` have ``ratings.csv`` and ``movies.csv`` (UTF-8). A rating is no purchase. It is taken as one when it is at
least 4, the customary cut for "liked", and as a view below: somebody watched it. The choice is told in the report
and can be moved (``--map purchase_from=3.5``). Deliberately absent: the rating itself, which has no column in the
contract, and tags and links.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import duckdb

from feature_repo.casts import literal, quoted, text
from feature_repo.errors import ConfigError, DataError
from feature_repo.importers.invoices import one, write_all
from feature_repo.importers.report import REJECTED, ImportReport, Step
from feature_repo.importers.sources.encodings import original
from feature_repo.importers.sources.files import RawFile, open_file
from feature_repo.importers.sources.source_map import FileShape
from feature_repo.schema import (
    AT,
    CATEGORY,
    CUSTOMER_ID,
    CUSTOMERS,
    INTERACTIONS,
    KIND,
    NAME,
    PRODUCT_ID,
    PRODUCTS,
    PURCHASE,
    REASON,
    ROW_NUMBER,
    VIEW,
)
from feature_repo.tables import connect, write_parquet

__all__ = ["PURCHASE_FROM", "import_movielens"]

PURCHASE_FROM: Final = 4.0
_OPTION: Final = "purchase_from"
_HEADERS: Final = {
    "ratings": ["userId", "movieId", "rating", "timestamp"],
    "movies": ["movieId", "title", "genres"],
    "users": ["userId", "gender", "age", "occupation", "zip"],
}
_AGES: Final = {
    1: "under 18",
    18: "18-24",
    25: "25-34",
    35: "35-44",
    45: "45-49",
    50: "50-55",
    56: "56 or over",
}
_OCCUPATIONS: Final = [
    "other",
    "academic or educator",
    "artist",
    "clerical or admin",
    "college or graduate student",
    "customer service",
    "doctor or health care",
    "executive or managerial",
    "farmer",
    "homemaker",
    "K-12 student",
    "lawyer",
    "programmer",
    "retired",
    "sales or marketing",
    "scientist",
    "self-employed",
    "technician or engineer",
    "tradesman or craftsman",
    "unemployed",
    "writer",
]


def import_movielens(
    source: str | Path, directory: str | Path, *, column_map: Mapping[str, str] | None = None
) -> ImportReport:
    """Write ``interactions``, ``products`` and, from ml-1m, ``customers``.

    Parameters
    ----------
    source
        The unpacked folder, or the ratings file in it.
    directory
        Where the tables go.
    column_map
        May hold ``purchase_from``: the least rating that is a purchase, in stars; 4 if not given.

    Returns
    -------
    ImportReport
        Also written beside the tables; its rows are the ratings.

    Raises
    ------
    ConfigError
        The map holds something else, or no number.
    DataError
        There is no ratings file, a file cannot be read, or no rating is usable.
    """
    least, path, folder = _threshold(column_map or {}), _ratings_file(Path(source)), Path(directory)
    with tempfile.TemporaryDirectory(prefix="nextbest-import-") as scratch:
        con = connect(scratch, memory_limit="600MB")
        try:
            files = _open(con, path, Path(scratch))
            report = _write(con, files, least, folder)
        finally:
            con.close()
    report.save(folder)
    return report


def _threshold(column_map: Mapping[str, str]) -> float:
    if other := [name for name in column_map if name != _OPTION]:
        raise ConfigError(
            f"expected only --map {_OPTION}=RATING with movielens, whose columns are known, found {other[0]}; remove it"
        )
    try:
        return float(column_map.get(_OPTION, PURCHASE_FROM))
    except ValueError as error:
        raise ConfigError(
            f"expected a rating in --map {_OPTION}, found {column_map[_OPTION]!r}; write for instance 3.5"
        ) from error


def _ratings_file(source: Path) -> Path:
    if source.is_file() and source.stem == "ratings":
        return source
    found = [path for name in ("ratings.dat", "ratings.csv") if (path := source / name).is_file()]
    if len(found) != 1:
        what = " and ".join(path.name for path in found) or ("no such file" if source.exists() else "nothing")
        raise DataError(
            f"expected one of ratings.dat and ratings.csv in {source}, found {what}; give the unpacked MovieLens folder"
        )
    return found[0]


def _open(con: duckdb.DuckDBPyConnection, path: Path, scratch: Path) -> dict[str, RawFile]:
    """Open the files beside the ratings that are there."""
    files = {}
    for name, names in _HEADERS.items():
        file = path.with_name(f"{name}{path.suffix}")
        if not file.is_file():
            continue
        if file.suffix == ".dat":
            shape = FileShape(encoding="latin-1", delimiter="::", quote="", header=names)
        else:
            shape = FileShape(encoding="utf-8", delimiter=",")
        files[name] = open_file(con, name, file, shape, scratch=scratch, where="format movielens")
        if missing := [
            column for column in names if column not in files[name].names and file.suffix != ".dat"
        ]:
            raise DataError(
                f"expected column(s) {', '.join(missing)} in {file}, found {', '.join(files[name].names)}; "
                "give a MovieLens file"
            )
    return files


def _write(
    con: duckdb.DuckDBPyConnection, files: dict[str, RawFile], least: float, folder: Path
) -> ImportReport:
    ratings = files["ratings"]
    customer, product, stars, second = (
        text(ratings.column(name, where="ratings")) for name in _HEADERS["ratings"]
    )
    con.execute(f"""
        CREATE VIEW rated AS SELECT *, CASE
            WHEN customer IS NULL OR product IS NULL THEN 'no user or no movie'
            WHEN stars IS NULL OR stars NOT BETWEEN 0 AND 5 THEN 'no rating between 0 and 5'
            WHEN "at" IS NULL THEN 'no readable time' END AS {REASON}
        FROM (SELECT {ROW_NUMBER}, {customer} AS customer, {product} AS product, try_cast({stars} AS DOUBLE) AS stars,
            make_timestamp(try_cast({second} AS BIGINT) * 1000000) AS "at" FROM {ratings.relation})""")
    if not one(con, f"SELECT count(*) FROM rated WHERE {REASON} IS NULL"):
        why = one(con, f"SELECT any_value({REASON}) FROM rated") or "the file has no rows"
        raise DataError(f"expected ratings in {ratings.path}, found none: {why}; give a MovieLens file")
    queries = {
        INTERACTIONS: f"""
            SELECT customer AS {CUSTOMER_ID}, product AS {PRODUCT_ID}, "at" AS {quoted(AT)},
                CASE WHEN stars >= {least!r} THEN {literal(PURCHASE)} ELSE {literal(VIEW)} END AS {KIND}
            FROM rated WHERE {REASON} IS NULL ORDER BY "at", {ROW_NUMBER}""",
        PRODUCTS: _products(files),
    }
    if "users" in files:
        queries[CUSTOMERS] = _customers(files["users"])
    written = write_all(con, queries, folder)
    steps = _left_out(con, files, folder)
    bought = one(con, f"SELECT count(*) FROM rated WHERE {REASON} IS NULL AND stars >= {least!r}")
    steps += [
        Step("rating taken as purchase", bought, f"{least:g} stars or more: liked, the customary cut"),
        Step(
            "rating taken as view",
            written[INTERACTIONS] - bought,
            f"below {least:g} stars: watched, not liked",
        ),
        Step(
            "rating",
            written[INTERACTIONS],
            "the stars themselves are not kept, and there is no money: value is 0",
        ),
        Step(
            "product with category",
            one(con, f"SELECT count({CATEGORY}) FROM ({queries[PRODUCTS]})"),
            f"{CATEGORY} is the first genre; all genres and the year are attributes",
        ),
    ]
    return ImportReport("movielens", str(ratings.path), ratings.rows, written, tuple(steps))


def _products(files: Mapping[str, RawFile]) -> str:
    """Return SQL for the movies, and for those that were rated and are in no list of movies."""
    rated = f"SELECT DISTINCT product FROM rated WHERE {REASON} IS NULL"
    if "movies" not in files:
        return f"SELECT product AS {PRODUCT_ID} FROM ({rated}) ORDER BY 1"
    movies = files["movies"]
    product, title, genres = (text(movies.column(name, where="movies")) for name in _HEADERS["movies"])
    listed = f"""
        SELECT {product} AS product, {title} AS title, nullif({genres}, '(no genres listed)') AS genres, {ROW_NUMBER}
        FROM {movies.relation} WHERE {product} IS NOT NULL
        QUALIFY row_number() OVER (PARTITION BY {product} ORDER BY {ROW_NUMBER}) = 1"""
    return f"""
        SELECT product AS {PRODUCT_ID}, title AS {quoted(NAME)}, split_part(genres, '|', 1) AS {CATEGORY}, genres,
            try_cast(regexp_extract(title, '[(]([0-9]{{4}})[^0-9]*$', 1) AS DOUBLE) AS year
        FROM ({listed}) FULL JOIN ({rated}) USING (product) ORDER BY 1"""


def _customers(users: RawFile) -> str:
    """Return SQL for the users of ml-1m, their codes in words."""
    customer, gender, age, occupation, _ = (
        text(users.column(name, where="users")) for name in _HEADERS["users"]
    )
    ages = "".join(f" WHEN '{code}' THEN {literal(name)}" for code, name in _AGES.items())
    works = "".join(f" WHEN '{code}' THEN {literal(name)}" for code, name in enumerate(_OCCUPATIONS))
    return f"""
        SELECT {customer} AS {CUSTOMER_ID}, CASE {gender} WHEN 'F' THEN 'female' WHEN 'M' THEN 'male' END AS gender,
            CASE {age}{ages} END AS age_class, CASE {occupation}{works} END AS occupation
        FROM {users.relation} WHERE {customer} IS NOT NULL
        QUALIFY row_number() OVER (PARTITION BY {customer} ORDER BY {ROW_NUMBER}) = 1 ORDER BY 1"""


def _left_out(con: duckdb.DuckDBPyConnection, files: Mapping[str, RawFile], folder: Path) -> list[Step]:
    """Write ``rejected.parquet`` over all files and return one step a file and reason."""
    queries = []
    for name, file in files.items():
        fields = ", ".join(f"{literal(column)}, {original(f'c{i}')}" for i, column in enumerate(file.names))
        own = f"json_object({fields})::VARCHAR"
        if name == "ratings":
            bad = (
                f"SELECT {ROW_NUMBER}, {REASON}, {own} AS row FROM rated JOIN {file.relation} USING "
                f"({ROW_NUMBER}) WHERE {REASON} IS NOT NULL"
            )
        else:
            key = text("c0")
            place = f"row_number() OVER (PARTITION BY {key} ORDER BY {ROW_NUMBER})"
            reason = f"CASE WHEN {key} IS NULL THEN 'no id' WHEN {place} > 1 THEN 'an id that was there before' END"
            bad = (
                f"SELECT * FROM (SELECT {ROW_NUMBER}, {reason} AS {REASON}, {own} AS row FROM "
                f"{file.relation}) WHERE {REASON} IS NOT NULL"
            )
        broken = (
            f"SELECT {ROW_NUMBER}, {REASON}, json_object('line', {original('line')})::VARCHAR AS "
            f"row FROM {file.broken}"
        )
        queries.append(f"SELECT {literal(file.path.name)} AS file, * FROM ({bad} UNION ALL {broken})")
    folder.mkdir(parents=True, exist_ok=True)
    target = write_parquet(
        con, f"FROM ({' UNION ALL '.join(queries)}) ORDER BY file, {ROW_NUMBER}", folder / REJECTED
    )
    counted = (
        f"SELECT file, {REASON}, count(*), arg_min(row, {ROW_NUMBER}), min({ROW_NUMBER}) FROM "
        f"read_parquet({literal(str(target))}) GROUP BY ALL ORDER BY 1, 3 DESC, 2"
    )
    ratings = files["ratings"].path.name
    return [
        Step(f"{file}: {reason}", count, "left out", {ROW_NUMBER: first, "row": row}, dropped=file == ratings)
        for file, reason, count, row, first in con.execute(counted).fetchall()
    ]
