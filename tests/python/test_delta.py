"""The Delta log of the features, as Delta Lake's own readers see it: deltalake (delta-rs) and Polars."""

import json
import pathlib

import polars as pl
import pytest
from conftest import pomona
from deltalake import DeltaTable


def rows(table):
    return sorted((row["path"], tuple(row["features"])) for row in table.to_pylist())


@pytest.fixture
def history(tmp_path):
    """Three versions: all images, one image less, and a version that was made after it without a change of images."""
    pomona("demo", tmp_path, "--views", 4, "--images-only")
    images, results = tmp_path / "images", tmp_path / "results"
    pomona("run", images, results, "--delta", "--shard-size", 10, "-k", 3)
    gone = sorted(images.rglob("*.*"))[5]
    gone.unlink()
    pomona("run", images, results)
    pomona("run", images, results, "-k", 2)
    return results, gone.relative_to(images).as_posix()


def of_version(results, version):
    """The features of a version, from the folder of that version."""
    return rows(pl.read_parquet(results / f"features/v={version:08}/*.parquet").to_arrow())


def sound(results):
    return json.loads(pomona("check", results, "--json"))["problems"] == []


def test_each_version_of_the_table_is_that_of_the_output(history):
    results, gone = history
    table = DeltaTable(results / "delta")
    assert table.version() == 3
    assert rows(table.to_pyarrow_table()) == of_version(results, 3)
    for version in (1, 2, 3):
        assert rows(DeltaTable(results / "delta", version=version).to_pyarrow_table()) == of_version(results, version)
        assert rows(pl.read_delta(str(results / "delta"), version=version).to_arrow()) == of_version(results, version)
    assert gone in [path for path, _ in of_version(results, 1)]
    assert pl.read_delta(str(results / "delta"), version=0).is_empty()
    # Statistics would hold paths of images.
    assert "stats" not in "".join(file.read_text() for file in (results / "delta/_delta_log").glob("*.json"))
    assert sound(results)


def test_deltas_own_vacuum_deletes_nothing_that_another_reader_needs(history):
    results, _ = history
    before = {file for file in results.rglob("*.parquet")}
    expected = [of_version(results, version) for version in (1, 2, 3)]
    deleted = DeltaTable(results / "delta").vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False)
    left = {file for file in results.rglob("*.parquet")}
    # The links of the shards that the newest version does not have.
    assert deleted and before - left == {results / "delta" / name for name in deleted}
    assert [of_version(results, version) for version in (1, 2, 3)] == expected
    assert sound(results)
    # The vacuum has written commits without effect. The next version of the output takes the number of the first one.
    pomona("run", results.parent / "images", results, "-k", 3)
    assert rows(DeltaTable(results / "delta", version=4).to_pyarrow_table()) == of_version(results, 4)
    assert rows(DeltaTable(results / "delta").to_pyarrow_table()) == of_version(results, 4)
    assert sound(results)


def test_erase_vacuum_and_repair_keep_the_log_true(history):
    results, gone = history
    pomona("erase", results, gone)
    assert sound(results)
    log = "".join(file.read_text() for file in (results / "delta/_delta_log").glob("*.json"))
    assert gone not in log
    assert gone not in [path for path, _ in rows(DeltaTable(results / "delta").to_pyarrow_table())]
    # Version 1 had the image, and is not there any more.
    assert pl.read_delta(str(results / "delta"), version=1).is_empty()
    pomona("vacuum", results, "--keep-versions", 1, "--older-than", 0)
    newest = max(int(file.stem) for file in (results / "versions").glob("*.json"))
    assert rows(DeltaTable(results / "delta").to_pyarrow_table()) == of_version(results, newest)
    commits = {file: file.read_bytes() for file in (results / "delta/_delta_log").glob("*.json")}
    for file in commits:
        file.write_text("{}\n")
    pathlib.Path(max(commits)).unlink()
    pomona("check", results, "--repair")
    assert {file: file.read_bytes() for file in (results / "delta/_delta_log").glob("*.json")} == commits
