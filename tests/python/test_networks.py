"""Networks in the shapes of well-known ones, against ONNX Runtime: tests/models/networks.py makes them and its answers."""

import json

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, pomona

NETWORKS = ROOT / "tests/models/networks"


@pytest.mark.parametrize("name", ["resnet18", "efficientnet-b0", "mobilenet-v3", "vit-tiny", "convnext"])
def test_features_are_those_of_onnx_runtime(tmp_path, name):
    expected = json.loads((NETWORKS / name / "features.json").read_text())
    pomona("run", NETWORKS / "images", tmp_path, "--model", NETWORKS / name, "--feature-range", 32, "-k", 2)
    table = pd.read_parquet(tmp_path / "features/v=00000001")
    extractor = json.loads((tmp_path / "versions/00000001.json").read_text())["extractor"]
    assert extractor.get("tract", False) == (name in ("vit-tiny", "convnext"))
    assert set(table["path"]) == set(expected)
    for path, row in zip(table["path"], table["features"]):
        theirs = np.array(expected[path])
        difference = np.linalg.norm(row - theirs) / np.linalg.norm(theirs)
        print(f"{name}, {path}: {difference:.1e} of the norm")
        assert row.shape == theirs.shape and difference <= 1e-4
