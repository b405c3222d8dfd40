"""Notebooks run from top to bottom anywhere, define nothing, and are stored with what they show."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
OF_A_MACHINE = re.compile(r"(?<![\w/.:])/(?:tmp|home|root|work|Users|var|usr|opt)/| at 0x[0-9a-f]{6,}")

every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def content(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8")))


def code_cells(path: Path) -> list[dict[str, Any]]:
    return [cell for cell in content(path)["cells"] if cell["cell_type"] == "code"]


def source(cell: dict[str, Any]) -> str:
    return "".join(cell["source"])


def shown(output: dict[str, Any]) -> str:
    """All text of an output, pictures left out."""
    texts = [value for kind, value in output.get("data", {}).items() if kind.startswith("text/")]
    return "\n".join("".join(text) for text in [*texts, output.get("text", "")])


def test_there_are_notebooks() -> None:
    assert NOTEBOOKS


@every_notebook
def test_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reason = "the notebooks are executed by nbclient, which is not installed"
    nbclient = pytest.importorskip("nbclient", reason=reason)
    nbformat = pytest.importorskip("nbformat", reason=reason)
    for name in ("JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "IPYTHONDIR", "MPLCONFIGDIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    monkeypatch.delenv("MPLBACKEND", raising=False)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    notebook = nbformat.read(path, as_version=4)
    client = nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(elsewhere)}}
    )
    client.execute()  # raises on the first cell that does
    assert not list(elsewhere.iterdir())  # nothing is left in the folder it runs in
    ran = [cell for cell in notebook.cells if cell.cell_type == "code"]
    warned = [output.text for cell in ran for output in cell.outputs if output.get("name") == "stderr"]
    assert not warned
    kinds = [[sorted(output.get("data", {})) for output in cell.outputs] for cell in ran]
    stored = [[sorted(output.get("data", {})) for output in cell["outputs"]] for cell in code_cells(path)]
    assert kinds == stored  # as many tables and pictures as are stored


@every_notebook
def test_notebook_defines_nothing(path: Path) -> None:
    for cell in code_cells(path):
        found = [node for node in ast.walk(ast.parse(source(cell))) if isinstance(node, DEFINITIONS)]
        assert not found, f"expected no definition in {path.name}, found one in: {source(cell)}"


@every_notebook
def test_notebook_is_stored_as_it_ran(path: Path) -> None:
    cells = code_cells(path)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert {output["output_type"] for output in outputs} <= {"execute_result", "display_data", "stream"}
    kinds = {kind for output in outputs for kind in output.get("data", {})}
    assert {"image/png", "text/html"} <= kinds


@every_notebook
def test_notebook_tells_nothing_of_the_machine(path: Path) -> None:
    told = content(path)
    assert told["metadata"] == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    assert not any(cell["metadata"] for cell in told["cells"])
    for cell in code_cells(path):
        for output in cell["outputs"]:
            assert not OF_A_MACHINE.search(shown(output)), shown(output)
