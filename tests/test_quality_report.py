"""The quality page: opened in a real browser, with hostile text in the data, beside the JSON of the same run."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from eval.quality_report import render_quality
from feature_repo import schema as s
from feature_repo.quality import inspect
from feature_repo.quality_store import load_profile
from training.cli.data import register

HOSTILE = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
CHANNEL = "web</script><script>document.title='owned'</script>"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
RUNNER = CliRunner()


@pytest.fixture
def app() -> typer.Typer:
    one = typer.Typer()
    register(one)
    return one


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    """Return tables with one failing check, hostile texts, and a channel that changes half way."""
    folder = tmp_path / "tables"
    folder.mkdir()
    lines = ["customer_id,product_id,at,kind,value,channel"]
    for i in range(2000):
        month, day, hour = 1 + i // 700, 1 + i // 25 % 28, i % 24
        channel = f'"{CHANNEL}"' if i > 1400 else "app"
        at = f"2024-{month:02}-{day:02}T{hour:02}:{(i + month) % 60:02}:{i % 59:02}"
        lines.append(f"c{i % 50},p{i % 5},{at},purchase,{2 + i % 5},{channel}")
    (folder / "interactions.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    quoted = HOSTILE.replace('"', '""')
    rows = [f'p{i},"{quoted}",2024-01-01,{i + 1}' for i in range(4)] + ["p4,有机绿茶礼盒装,2024-01-01,0"]
    (folder / "products.csv").write_text(
        "product_id,name,valid_from,price\n" + "\n".join(rows) + f'\np0,"{quoted}",2024-01-01,1\n',
        encoding="utf-8",
    )
    return folder


def dom_of(page: Path, *, width: int = 1280) -> str:
    if CHROMIUM is None:
        pytest.skip("needs chromium, which is not installed")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--window-size={width},1600"]
    command += ["--virtual-time-budget=5000", "--dump-dom", page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def invoke(app: typer.Typer, *arguments: object) -> tuple[int, str]:
    result = RUNNER.invoke(app, ["validate", *map(str, arguments)])
    return result.exit_code, result.output


def test_page_in_a_browser_shows_the_numbers_of_the_json(
    app: typer.Typer, tables: Path, tmp_path: Path
) -> None:
    page = tmp_path / "page" / "q.html"
    code, out = invoke(app, tables, "--json", "--report-to", page)
    assert code == 2
    told = json.loads(out)
    assert told["report"] == str(page)
    dom = dom_of(page)
    counts = re.search(r'id="counts">(\d+) PASS · (\d+) WARN · (\d+) FAIL<', dom)
    assert counts is not None
    assert [int(n) for n in counts.groups()] == [
        told["counts"][status] for status in ("PASS", "WARN", "FAIL")
    ]
    shown = re.findall(r'class="finding" data-table="([^"]*)" data-check="([^"]*)" data-count="(\d+)"', dom)
    assert sorted(shown) == sorted((f["table"], f["check"], str(f["count"])) for f in told["findings"])
    for name, table in told["tables"].items():
        row = re.search(rf'data-rows-of="{name}"><td>{name}</td><td class="right">([\d,]+)</td>', dom)
        assert row is not None
        assert int(row.group(1).replace(",", "")) == table["rows"]


def test_hostile_text_is_shown_and_never_run(app: typer.Typer, tables: Path) -> None:
    invoke(app, tables, "--report")
    page = tables / ".quality" / "report.html"
    source = page.read_text(encoding="utf-8")
    assert HOSTILE not in source
    assert CHANNEL not in source
    dom = dom_of(page)
    assert f"<title>Data quality: {tables}</title>" in dom
    assert "<img" not in dom
    assert html.escape(CHANNEL, quote=False)[:20] in dom
    assert 'class="main-svg"' in dom  # the charts were drawn


def test_page_needs_nothing_from_outside(tables: Path) -> None:
    page = render_quality(inspect(tables), plotly_js="/* plotly */")
    assert not re.findall(r'(?:src|href)\s*=\s*"|url\(|@import', page)
    assert page.count("/* plotly */") == 1
    assert '<meta charset="utf-8">' in page


@pytest.mark.parametrize("width", [1280, 500])
def test_nothing_is_wider_than_the_page(app: typer.Typer, tables: Path, width: int) -> None:
    invoke(app, tables, "--report")
    page = tables / ".quality" / "report.html"
    probe = page.with_name("probe.html")
    measure = (
        "<script>document.title = document.documentElement.scrollWidth + '/' + innerWidth</script></body>"
    )
    probe.write_text(page.read_text(encoding="utf-8").replace("</body>", measure), encoding="utf-8")
    found = re.search(r"<title>(\d+)/(\d+)</title>", dom_of(probe, width=width))
    assert found is not None
    assert int(found.group(1)) <= int(found.group(2))


def test_a_page_of_almost_nothing(tmp_path: Path) -> None:
    (tmp_path / "interactions.csv").write_text("customer_id,product_id,at\nann,pen,2024-01-02\n")
    (tmp_path / "products.csv").write_text(
        "product_id,name,valid_from\npen,钢笔,2024-01-01\n", encoding="utf-8"
    )
    page = render_quality(inspect(tmp_path))
    assert "All checks pass" in page
    assert "plotly" not in page  # no chart, no library
    (tmp_path / "interactions.csv").unlink()
    (tmp_path / "products.csv").unlink()
    empty = render_quality(inspect(tmp_path))
    assert "Not fit for training: 2 checks fail" in empty
    assert "No table could be read" in empty


def test_command_stores_a_profile_only_of_what_did_not_fail(app: typer.Typer, tables: Path) -> None:
    assert invoke(app, tables)[0] == 2
    assert not (tables / ".quality").exists()
    (tables / "products.csv").write_text(
        "product_id,valid_from\n" + "".join(f"p{i},2024-01-01\n" for i in range(5)), encoding="utf-8"
    )
    assert invoke(app, tables, "--no-store")[0] == 0
    assert not (tables / ".quality").exists()
    assert invoke(app, tables)[0] == 0
    (stored,) = (tables / ".quality" / "profiles").iterdir()
    assert load_profile(stored).tables[s.INTERACTIONS].rows == 2000
    code, out = invoke(app, tables, "--against", stored, "--json")
    assert code == 0
    assert json.loads(out)["compared_with"] == load_profile(stored).made_at


def test_the_page_tells_what_it_was_compared_with(tables: Path) -> None:
    profile = load_profile(tables)
    page = render_quality(inspect(tables, against=profile), plotly_js="")
    assert "compared with other tables" in page
    assert "no earlier run" not in page
