"""The notebooks run from top to bottom, and what they find, which their own last cells assert, still holds."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

nbformat = pytest.importorskip("nbformat", reason="the notebooks extra reads notebooks")
nbclient = pytest.importorskip("nbclient", reason="the test extra executes notebooks")
pytest.importorskip("matplotlib", reason="the notebooks extra draws static figures")

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
LARGEST = 1_000_000  # bytes: GitHub shows a notebook of this size
PLOTLY, PNG = "application/vnd.plotly.v1+json", "image/png"

every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def outputs(notebook: Any) -> list[Any]:
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def is_warning(output: Any) -> bool:
    return output.output_type == "stream" and output.name == "stderr"


def test_there_are_notebooks() -> None:
    assert {path.stem for path in NOTEBOOKS} >= {"one_model_five_devices", "npu_pareto", "find_a_bottleneck"}


@every_notebook
def test_a_notebook_runs_and_its_findings_hold(path: Path, tmp_path: Path) -> None:
    """Executed as a copy: assertions in its cells raise like any other error."""
    copy = tmp_path / path.name
    shutil.copy(path, copy)
    notebook = nbformat.read(copy, as_version=4)
    asserted = [line for cell in notebook.cells if cell.cell_type == "code" for line in cell.source.splitlines()]
    assert sum(line.startswith("assert ") for line in asserted) >= 5
    client = nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    assert not [output for output in outputs(notebook) if output.output_type == "error"]


@every_notebook
def test_a_notebook_is_stored_as_it_ran(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1))
    assert not [output for output in outputs(notebook) if output.output_type == "error" or is_warning(output)]
    assert path.stat().st_size < LARGEST


@every_notebook
def test_each_figure_is_stored_as_plotly_and_as_image(path: Path) -> None:
    data = [output.data for output in outputs(nbformat.read(path, as_version=4)) if "data" in output]
    figures = [bundle for bundle in data if PLOTLY in bundle or PNG in bundle]
    assert figures
    assert all(PLOTLY in bundle and PNG in bundle for bundle in figures)
