"""The notebook and the SQL in examples/, on the output of the demo."""

import os
import re

import nbformat
import pyarrow.parquet as pq
import sqlglot
from conftest import ROOT, pomona
from nbclient import NotebookClient


def test_the_notebook_runs_and_prints_what_show_prints(demo):
    notebook = nbformat.read(ROOT / "examples/explore.ipynb", as_version=4)
    os.environ["POMONA_OUTPUT"] = str(demo.folder)
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(ROOT / "examples")}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    printed = "".join(output.text for output in outputs if output.get("name") == "stdout")
    shown = re.sub(r"(\d) %", r"\1%", pomona("show", demo.folder))

    components, explained, needs_90, needs_99 = re.search(
        r"(\d+) components explain ([\d.]+%); 90 % needs (\d+), 99 % needs (\d+)", printed).groups()
    assert f"{components} components explain {explained}; 90% needs {needs_90}, 99% needs {needs_99}" in shown
    version, images, labels, rejects = re.search(r"version (\d+): (\d+) images in (\d+) labels, (\d+) rejects", printed).groups()
    assert (int(version), int(images), int(labels), int(rejects)) == (1, 560, 14, 0)
    assert float(re.search(r"accuracy ([\d.]+)%", printed).group(1)) > 97
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) == 2
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]


def test_the_athena_tables_have_the_columns_of_the_files(demo):
    text = (ROOT / "examples/athena.sql").read_text()
    statements = [statement for statement in sqlglot.parse(text, read="athena") if statement]
    assert len(statements) == 6
    files = {
        "pomona_scores": max(demo.folder.glob("pca/*/*.parquet")),
        "pomona_features": max(demo.folder.glob("features/*/*.parquet")),
        "pomona_rejects": max(demo.folder.glob("rejects/*.parquet")),
    }
    kinds = {"string": "string", "bigint": "int64", "timestamp": "timestamp[us", "array<float>": "list<element: float"}
    for name, file in files.items():
        body = re.search(rf"CREATE EXTERNAL TABLE {name} \(\n(.*?)\n\)", text, re.S).group(1)
        declared = [line.strip().rstrip(",").split(" ", 1) for line in body.splitlines()]
        schema = pq.read_schema(file)
        assert [column for column, _ in declared] == schema.names
        for column, kind in declared:
            assert str(schema.field(column).type).startswith(kinds[kind]), f"{name}.{column}"
