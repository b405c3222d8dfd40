"""DuckDB and Spark make the same features: the same rows, columns, types, and values within 1e-9."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from feature_repo.build import FeatureSet, build
from feature_repo.declared import DECLARATIONS
from feature_repo.errors import ConfigError
from feature_repo.files import parquet_files
from feature_repo.importers import import_tables
from feature_repo.tables import Tables
from tests.rich_shop import rich_shop, write_shop
from tests.test_feature_laws import rows_of, same

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def _spark() -> None:
    pytest.importorskip("pyspark", reason="the extra spark is not installed")
    if shutil.which("java") is None:
        pytest.skip("Java is not installed")


def both(tables: Path, directory: Path) -> tuple[FeatureSet, FeatureSet]:
    from feature_repo.spark_engine import SparkEngine

    with Tables.open(tables) as opened:
        duckdb = build(opened, directory / "duckdb")
        return duckdb, build(opened, directory / "spark", engine=SparkEngine)


def assert_same(duckdb: FeatureSet, spark: FeatureSet) -> None:
    assert duckdb.rows == spark.rows
    assert duckdb.columns == spark.columns
    for view in duckdb.rows:
        files = [parquet_files(features.path(view)) for features in (duckdb, spark)]
        assert [path.name for path in files[0]] == [path.name for path in files[1]]
        schemas = [pq.read_schema(listed[0]).remove_metadata() for listed in files]
        assert schemas[0].equals(schemas[1]), view
        left, right = rows_of(duckdb, view), rows_of(spark, view)
        for name in left.columns:
            pairs = zip(left[name], right[name], strict=True)
            differing = [(x, y) for x, y in pairs if not same(x, y)]
            assert not differing, (view, name, len(differing), differing[0])


def seldom(tables: Path, days: int) -> Path:
    """The same tables with few snapshots: planning takes Spark seconds for each, whatever its size."""
    (tables / DECLARATIONS).write_text(f"cadence_days = {days}\n")
    return tables


def test_on_a_shop_with_every_table(tmp_path: Path) -> None:
    tables = write_shop(rich_shop(events=1500), tmp_path / "tables")
    text = (tables / DECLARATIONS).read_text(encoding="utf-8")
    (tables / DECLARATIONS).write_text(
        text.replace("cadence_days = 28", "cadence_days = 200"), encoding="utf-8"
    )
    assert_same(*both(tables, tmp_path))


def test_on_the_world(world_tables: Path, tmp_path: Path) -> None:
    shutil.copytree(world_tables, tmp_path / "tables")
    assert_same(*both(seldom(tmp_path / "tables", 300), tmp_path))


@pytest.mark.realdata
def test_on_online_retail(realdata: Path, tmp_path: Path) -> None:
    import_tables("online-retail", realdata / "online_retail" / "online_retail.parquet", tmp_path / "tables")
    duckdb, spark = both(seldom(tmp_path / "tables", 300), tmp_path)
    assert duckdb.rows[next(iter(duckdb.rows))] > 1000
    assert_same(duckdb, spark)


def test_without_java_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pyspark.sql import SparkSession

    from feature_repo.spark_engine import spark_session

    monkeypatch.setattr(SparkSession, "getActiveSession", classmethod(lambda cls: None))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    with pytest.raises(ConfigError, match=r"expected Java 17 .* install it or set JAVA_HOME"):
        spark_session(tmp_path)
