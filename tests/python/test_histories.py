"""The printed paths give the right rows after any history of runs, in every reader."""

import json
import pathlib
import random
import struct
import zlib

import duckdb
import pandas as pd
import polars as pl
import pytest
from conftest import TINY, pomona


def picture(path, seed):
    """Writes a PNG of 16 x 12 random pixels."""
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    noise = random.Random(seed)
    rows = b"".join(b"\0" + noise.randbytes(16 * 3) for _ in range(12))
    header = struct.pack(">IIBBBBB", 16, 12, 8, 2, 0, 0, 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)


def spark_rows(folder):
    """Paths by Spark; None where it is not installed."""
    try:
        from pyspark.sql import SparkSession
    except ImportError:
        return None
    spark = SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false").getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")
    return [row["path"] for row in spark.read.parquet(str(folder)).select("path").collect()]


@pytest.mark.parametrize("seed", range(5))
def test_readers_count_the_rows_of_the_newest_version(seed, tmp_path):
    rng = random.Random(seed)
    images, results = tmp_path / "images", tmp_path / "results"
    for i in range(60):
        picture(images / f"label {i % 4}/{i:03}.png", i)
    for _ in range(rng.randint(2, 5)):
        printed = json.loads(pomona("run", images, results, "--model", TINY, "--shard-size", 16, "--json"))
        for _ in range(rng.randint(1, 8)):
            i = rng.randint(0, 79)
            path = images / f"label {i % 4}/{i:03}.png"
            if path.exists() and rng.random() < 0.5:
                path.unlink()
            else:
                picture(path, rng.random())
        if rng.random() < 0.3:
            pomona("vacuum", results, "--keep-versions", 1, "--older-than", 0)
    printed = json.loads(pomona("run", images, results, "--model", TINY, "--json"))
    expected = sorted(str(path.relative_to(images)) for path in images.rglob("*.png"))
    for table in ("features", "pca"):
        folder = pathlib.Path(printed["files"][table])
        rows = {
            "pandas": list(pd.read_parquet(folder)["path"]),
            "Polars": pl.read_parquet(folder / "*.parquet")["path"].to_list(),
            "DuckDB": [row[0] for row in duckdb.sql(f"SELECT path FROM '{folder}/*.parquet'").fetchall()],
            "Spark": spark_rows(folder),
        }
        for reader, paths in rows.items():
            assert paths is None or sorted(paths) == expected, f"{reader}, {table}"
