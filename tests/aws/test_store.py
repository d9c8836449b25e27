"""The S3 store on a local S3: the conformance suite of all stores, and runs from and to a bucket."""

import json
import os
import subprocess

import pytest
from local_aws import POMONA, ROOT, LocalAws

TINY = ROOT / "tests/models/tiny.onnx"


@pytest.fixture(scope="module")
def aws():
    with LocalAws() as aws:
        yield aws


def test_the_s3_store_keeps_the_promises_of_every_store(aws):
    aws.client("s3").create_bucket(Bucket="conformance")
    env = aws.environment() | {"POMONA_TEST_BUCKET": "conformance", "PATH": os.environ["PATH"]}
    done = subprocess.run(["cargo", "test", "--locked", "--release", "--workspace", "--test", "all", "store::s3", "--", "--nocapture"],
                          cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "s3 suite ran" in done.stdout + done.stderr


def test_a_run_from_s3_to_s3_and_to_a_folder(aws, tmp_path):
    s3 = aws.client("s3")
    s3.create_bucket(Bucket="fruit")
    aws.pomona("demo", tmp_path / "demo", "--images-only", "--views", 4)
    for path in (tmp_path / "demo/images").rglob("*.jpg"):
        s3.upload_file(str(path), "fruit", "images/" + str(path.relative_to(tmp_path / "demo/images")))
    run = lambda *args: json.loads(aws.pomona("run", *args, "--model", TINY, "--json").stdout)  # noqa: E731
    first = run("s3://fruit/images/", "s3://fruit/results/", "--csv", "--shard-size", 16)
    assert (first["images"], first["inferred"], first["rejects"]) == (56, 56, 0)
    assert run("s3://fruit/images/", "s3://fruit/results/", "--csv", "--shard-size", 16)["up_to_date"]
    mixed = run("s3://fruit/images/", tmp_path / "mixed", "--csv", "--shard-size", 16)
    back = run(tmp_path / "demo/images", "s3://fruit/other/", "--csv", "--shard-size", 16)
    assert mixed["images"] == back["images"] == 56
    csv = lambda prefix: s3.get_object(Bucket="fruit", Key=prefix + "csv/v=00000001/result.csv")["Body"].read()  # noqa: E731
    assert csv("results/") == csv("other/") == (tmp_path / "mixed/csv/v=00000001/result.csv").read_bytes()
    shown = aws.pomona("show", "s3://fruit/results/").stdout
    assert "56" in shown and "pc_0" in shown

    # In a bucket, a list names the tables of a version; on request, the folder has copies. In a folder, it has links.
    keys = lambda prefix: [o["Key"] for o in s3.list_objects_v2(Bucket="fruit", Prefix=prefix).get("Contents", [])]  # noqa: E731
    tables = [key for key in keys("results/shards/") if key.endswith("/features.parquet")]
    assert keys("results/features/") == ["results/features/v=00000001/symlink.txt"]
    lines = s3.get_object(Bucket="fruit", Key="results/features/v=00000001/symlink.txt")["Body"].read().decode().splitlines()
    assert sorted(lines) == sorted(f"s3://fruit/{key}" for key in tables) and len(lines) >= 3
    copies = run("s3://fruit/images/", "s3://fruit/results/", "--shard-size", 16, "--materialize-features")
    parts = [f"part-{part:05}.parquet" for part in range(len(tables))]
    assert copies["files"]["features"] == "s3://fruit/results/features/v=00000002"
    assert keys("results/features/v=00000002/") == [f"results/features/v=00000002/{part}" for part in parts]
    assert sorted(path.name for path in (tmp_path / "mixed/features/v=00000001").iterdir()) == parts


def test_wrong_places_are_explained(aws):
    missing = aws.pomona("run", "s3://no-such-bucket/x/", "s3://no-such-bucket/y/", check=False)
    assert missing.returncode == 1 and "no such bucket" in missing.stderr
    overlap = aws.pomona("run", "s3://fruit/images/", "s3://fruit/images/out/", check=False)
    assert overlap.returncode == 1 and "Input.Overlap" in overlap.stderr
    nonsense = aws.pomona("run", "ftp://fruit/", "out", check=False)
    assert nonsense.returncode == 2 and "s3://BUCKET/PREFIX/" in nonsense.stderr
    env = {"PATH": "/usr/bin:/bin", "AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_EC2_METADATA_DISABLED": "true",
           "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
    away = subprocess.run([POMONA, "show", "s3://fruit/results/"], env=env, capture_output=True, text=True)
    assert away.returncode == 1 and "Store.Unavailable" in away.stderr
