"""The SQL in examples/, on the output of the demo."""

import re

import pyarrow.parquet as pq
import sqlglot
from conftest import ROOT, pomona


def test_the_athena_tables_have_the_columns_of_the_files(demo, tmp_path):
    # Keypoints are the column that not each output has.
    pomona("demo", tmp_path, "--views", 2, "--images-only")
    pomona("run", tmp_path / "images", tmp_path / "results", "--extractor", "orb", "--words", 8, "-k", 3, "--keep-keypoints")
    text = (ROOT / "examples/athena.sql").read_text()
    statements = [statement for statement in sqlglot.parse(text, read="athena") if statement]
    assert len(statements) == 6
    files = {
        "pomona_scores": max(demo.folder.glob("pca/*/*.parquet")),
        "pomona_features": max(tmp_path.glob("results/features/*/*.parquet")),
        "pomona_rejects": max(demo.folder.glob("rejects/*.parquet")),
    }
    kinds = {"string": "string", "bigint": "int64", "timestamp": "timestamp[us", "array<float>": "list<element: float",
             "array<struct<x: float, y: float, octave: int, angle: float, response: float, descriptor: binary>>":
                 "list<element: struct<x: float not null, y: float not null, octave: int32 not null, angle: float not null, "
                 "response: float not null, descriptor: fixed_size_binary[32] not null>"}
    for name, file in files.items():
        body = re.search(rf"CREATE EXTERNAL TABLE {name} \(\n(.*?)\n\)", text, re.S).group(1)
        declared = [line.strip().rstrip(",").split(" ", 1) for line in body.splitlines()]
        schema = pq.read_schema(file)
        assert [column for column, _ in declared] == schema.names
        for column, kind in declared:
            assert str(schema.field(column).type).startswith(kinds[kind]), f"{name}.{column}"
