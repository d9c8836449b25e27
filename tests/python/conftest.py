"""The program under test, and runs that several tests share."""

import json
import os
import pathlib
import subprocess

import pandas as pd
import pytest

ROOT = pathlib.Path(__file__).parents[2]
TINY = ROOT / "tests/models/tiny.onnx"
POMONA = os.environ.get("POMONA", str(ROOT / "target/release/pomona"))


class Output:
    """The output of a run, read from its newest manifest."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        newest = max(self.folder.glob("versions/*.json"))
        self.manifest = json.loads(newest.read_text())

    @property
    def pca(self):
        return self.folder / f"pca/v={self.manifest['version']:08}"

    def features(self):
        return pd.read_parquet(self.folder / self.manifest["outputs"]["features"]["folder"])

    def groups(self):
        """The records of the groups of shards, with the folder of each."""
        for group in self.manifest["groups"]:
            folder = self.folder / "groups" / group["id"]
            yield folder, json.loads((folder / "group.json").read_text())

    def basis(self):
        return pd.read_parquet(self.folder / self.manifest["basis"]["key"])


def pomona(*args, **options):
    """Runs the program; returns its standard output."""
    done = subprocess.run([POMONA, *map(str, args)], capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def demo(tmp_path_factory):
    """The demo: 560 images, fewer than the 1280 columns."""
    folder = tmp_path_factory.mktemp("demo")
    pomona("demo", folder, "--csv", "--shard-size", 100)
    return Output(folder / "results")


@pytest.fixture(scope="session")
def centred(demo):
    """The demo, centred but not standardised, with one folder per label."""
    images, results = demo.folder.parent / "images", demo.folder.parent / "centred"
    pomona("run", images, results, "--no-standardize", "--partition-by-label", "--shard-size", 100, "-k", 20)
    return Output(results)


@pytest.fixture(scope="session")
def many(tmp_path_factory):
    """840 images through a model with 24 columns."""
    folder = tmp_path_factory.mktemp("many")
    pomona("demo", folder, "--views", 60, "--model", TINY, "--components", 24, "--shard-size", 64)
    return Output(folder / "results")
