"""The files open in pandas, Polars and DuckDB with the types of docs/file-formats.md."""

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

FLOATS = pa.list_(pa.field("element", pa.float32(), nullable=False))


def test_schemas_are_the_documented_ones(demo):
    features = pq.read_schema(demo.folder / demo.manifest["outputs"]["features"]["folder"] / "part-00000.parquet")
    assert {f.name: f.type for f in features} == {
        "path": pa.string(), "label": pa.string(), "split": pa.string(), "modified": pa.timestamp("us", "UTC"),
        "length": pa.int64(), "etag": pa.string(), "content_sha256": pa.string(), "features": FLOATS, "thumbnail": FLOATS,
    }
    scores = pq.read_schema(next(demo.pca.glob("*.parquet")))
    assert {f.name: f.type for f in scores} == {"path": pa.string(), "label": pa.string(), "pca_features": FLOATS}
    rejects = pq.read_schema(demo.folder / demo.manifest["outputs"]["rejects"]["key"])
    assert {f.name: f.type for f in rejects} == dict.fromkeys(["path", "reason", "detail"], pa.string())
    assert pq.read_schema(demo.folder / demo.manifest["moments"]["key"]).field("sum").type == pa.int64()


def test_files_are_snappy_with_plain_lists_and_ids_in_their_footers(demo):
    file = pq.ParquetFile(next(demo.pca.glob("*.parquet")))
    columns = [file.metadata.row_group(0).column(i) for i in range(file.metadata.num_columns)]
    assert {c.compression for c in columns} == {"SNAPPY"}
    assert "pca_features.list.element" in {c.path_in_schema for c in columns}
    footer = file.metadata.metadata
    assert footer[b"pomona.extractor"].decode() == demo.manifest["extractor"]["id"]
    assert footer[b"pomona.basis"].decode() == demo.manifest["basis"]["id"]


def test_pandas_reads_scores_and_features(demo):
    scores = pd.read_parquet(demo.pca)
    features = demo.features()
    assert len(scores) == len(features) == 560
    assert list(scores["path"]) == list(features["path"]) == sorted(scores["path"])
    assert scores["label"].nunique() == 14 and (scores.groupby("label").size() == 40).all()
    assert np.stack(scores["pca_features"]).shape == (560, 50)
    values = np.stack(features["features"])
    assert values.shape == (560, 1280) and values.dtype == np.float32 and values.min() >= 0 and values.max() <= 6
    units = values.astype(np.float64) * 2**20
    assert (units == np.round(units)).all()
    assert (features["modified"] == pd.Timestamp("2024-01-01", tz="UTC")).all()


def test_polars_and_duckdb_read_the_same_scores(demo):
    expected = pd.read_parquet(demo.pca)
    frame = pl.read_parquet(demo.pca / "*.parquet")
    assert frame.schema == {"path": pl.String, "label": pl.String, "pca_features": pl.List(pl.Float32)}
    assert frame["path"].to_list() == list(expected["path"])
    rows = duckdb.sql(f"SELECT path, label, pca_features FROM '{demo.pca}/*.parquet' ORDER BY path")
    assert [str(t) for t in rows.types] == ["VARCHAR", "VARCHAR", "FLOAT[]"]
    fetched = rows.fetchall()
    for table in (frame["pca_features"].to_list(), [row[2] for row in fetched]):
        assert (np.array(table, np.float32) == np.stack(expected["pca_features"])).all()


def test_the_csv_holds_the_same_numbers(demo):
    path = demo.folder / demo.manifest["outputs"]["csv"]["key"]
    csv = pd.read_csv(path)
    assert list(csv.columns) == ["path", "label"] + [f"pc_{i}" for i in range(50)]
    expected = pd.read_parquet(demo.pca)
    assert list(csv["path"]) == list(expected["path"])
    assert (csv.iloc[:, 2:].to_numpy(np.float32) == np.stack(expected["pca_features"])).all()
    assert duckdb.sql(f"SELECT count(*) FROM '{path}'").fetchall() == [(560,)]


def test_partitions_carry_the_labels(centred):
    frame = pd.read_parquet(centred.pca)
    assert sorted(frame["label"].astype(str).unique()) == sorted(c["label"] for c in centred.manifest["labels"])
    rows = duckdb.sql(
        f"SELECT label, count(*) FROM read_parquet('{centred.pca}/**/*.parquet', hive_partitioning = true) GROUP BY label"
    ).fetchall()
    assert dict(rows) == {c["label"]: c["images"] for c in centred.manifest["labels"]}


def test_odd_labels_survive_partitioning(tmp_path):
    from conftest import TINY, Output, pomona

    pomona("demo", tmp_path, "--views", 8, "--images-only")
    odd = ["Äpfel 苹果", "it's 100% \"a\"=b", "x:y?*[z]"]
    for label, folder in zip(odd, sorted((tmp_path / "images").iterdir())):
        folder.rename(folder.with_name(label))
    pomona("run", tmp_path / "images", tmp_path / "results", "--model", TINY, "--partition-by-label")
    output = Output(tmp_path / "results")
    for labels in (
        set(pd.read_parquet(output.pca)["label"].astype(str)),
        set(duckdb.sql(f"SELECT DISTINCT label FROM read_parquet('{output.pca}/**/*.parquet', hive_partitioning = true)").df()["label"]),
        set(pl.read_parquet(output.pca / "**/*.parquet", hive_partitioning=True)["label"]),
    ):
        assert set(odd) <= labels and len(labels) == 14


def test_moments_are_numpys_exact_sums(demo):
    for folder, group in demo.groups():
        shards = [demo.folder / "shards" / shard["id"] / "features.parquet" for shard in group["shards"]]
        x = np.concatenate([np.stack(pd.read_parquet(shard)["features"]) for shard in shards]).astype(np.float64)
        x = (x * 2**20).astype(np.int64)
        sums = pd.read_parquet(folder / "sums.parquet")["sum"].to_numpy()
        assert (sums[:1280] == x.sum(0)).all()
        assert (sums[1280:] == (x.T @ x)[np.triu_indices(1280)]).all()
