"""MovieLens in both of its forms, in small files made by hand."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from feature_repo import schema as s
from feature_repo.errors import ConfigError, DataError
from feature_repo.importers.movielens import import_movielens
from feature_repo.tables import Tables
from feature_repo.validate import validate

RATINGS = (
    "1::10::5::978300760\n1::20::3::978302109\n2::10::4::978301968\n2::30\n"
    "3::10::9::978301968\n3::10::4::never\n::10::4::1\n"
)
MOVIES = (
    "10::Léon: The Professional (1994)::Crime|Drama\n20::Toy Story "
    "(1995)::Animation\n40::Unseen::Drama\n40::Twice::Drama\n"
)
USERS = "1::F::1::10::48067\n2::M::56::16::70072\n4::X::99::77::0\n"


def written(name: str, directory: Path) -> pd.DataFrame:
    with Tables.open(directory) as tables:
        return tables.frame(name)


@pytest.fixture
def old(tmp_path: Path) -> Path:
    for name, text in (("ratings", RATINGS), ("movies", MOVIES), ("users", USERS)):
        (tmp_path / f"{name}.dat").write_text(text, encoding="latin-1")
    return tmp_path


def test_ml_1m(old: Path) -> None:
    report = import_movielens(old, old / "tables")
    assert (report.rows_read, report.rows_dropped) == (7, 4)
    assert report.rows_written == {s.INTERACTIONS: 3, s.PRODUCTS: 3, s.CUSTOMERS: 3}
    assert report.step("rating taken as purchase").count == 2
    log = written(s.INTERACTIONS, old / "tables")
    assert log[[s.CUSTOMER_ID, s.PRODUCT_ID, s.AT, s.KIND]].values.tolist() == [
        ["1", "10", pd.Timestamp("2000-12-31T22:12:40Z"), "purchase"],
        ["2", "10", pd.Timestamp("2000-12-31T22:32:48Z"), "purchase"],
        ["1", "20", pd.Timestamp("2000-12-31T22:35:09Z"), "view"],
    ]
    products = written(s.PRODUCTS, old / "tables").set_index(s.PRODUCT_ID)
    assert products.loc["10", [s.NAME, s.CATEGORY, "genres", "year"]].tolist() == [
        "Léon: The Professional (1994)",
        "Crime",
        "Crime|Drama",
        1994.0,
    ]
    assert products.loc["40", s.NAME] == "Unseen"
    customers = written(s.CUSTOMERS, old / "tables").set_index(s.CUSTOMER_ID)
    assert customers.loc["1"].tolist()[-3:] == ["female", "under 18", "K-12 student"]
    assert customers.loc["4"].tolist()[-3:] == [None, None, None]
    assert not validate(old / "tables").failed


def test_lines_left_out_are_found_again(old: Path) -> None:
    report = import_movielens(old / "ratings.dat", old / "tables")
    rows = pd.read_parquet(old / "tables" / "rejected.parquet")
    assert rows[["file", s.ROW_NUMBER, s.REASON]].values.tolist() == [
        ["movies.dat", 4, "an id that was there before"],
        ["ratings.dat", 4, "too few fields for a row"],
        ["ratings.dat", 5, "no rating between 0 and 5"],
        ["ratings.dat", 6, "no readable time"],
        ["ratings.dat", 7, "no user or no movie"],
    ]
    assert report.rows_dropped == 4  # a movie is no rating


def test_ml_latest_and_another_threshold(tmp_path: Path) -> None:
    (tmp_path / "ratings.csv").write_text(
        "userId,movieId,rating,timestamp\n7,1,3.5,1256677221\n7,99,0.5,1256677222\n", "utf-8"
    )
    (tmp_path / "movies.csv").write_text(
        'movieId,title,genres\n1,"Amélie, Le (2001)",Comedy|Romance\n2,七人,(no genres listed)\n', "utf-8"
    )
    report = import_movielens(tmp_path, tmp_path / "tables", column_map={"purchase_from": "3.5"})
    assert report.step("rating taken as purchase").count == 1
    products = written(s.PRODUCTS, tmp_path / "tables")
    assert products[[s.PRODUCT_ID, s.NAME, s.CATEGORY]].values.tolist() == [
        ["1", "Amélie, Le (2001)", "Comedy"],
        ["2", "七人", None],
        ["99", None, None],  # rated, and in no list of movies
    ]
    assert s.CUSTOMERS not in report.rows_written


def test_errors(tmp_path: Path, old: Path) -> None:
    with pytest.raises(DataError, match=r"expected one of ratings\.dat and ratings\.csv"):
        import_movielens(tmp_path / "none", tmp_path)
    with pytest.raises(ConfigError, match="whose columns are known"):
        import_movielens(old, tmp_path, column_map={s.AT: "time"})
    with pytest.raises(ConfigError, match="expected a rating"):
        import_movielens(old, tmp_path, column_map={"purchase_from": "four"})
    (old / "ratings.csv").write_text("userId,rating\n1,2\n", "utf-8")
    with pytest.raises(DataError, match=r"found ratings\.dat and ratings\.csv"):
        import_movielens(old, tmp_path)
    with pytest.raises(DataError, match=r"expected column\(s\) movieId, timestamp"):
        import_movielens(old / "ratings.csv", tmp_path)
    (old / "ratings.dat").write_text("1::2\n", "latin-1")
    (old / "ratings.csv").unlink()
    with pytest.raises(DataError, match="expected ratings in"):
        import_movielens(old, tmp_path)
