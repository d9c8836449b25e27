"""Networks in the shapes of well-known ones, against ONNX Runtime: tests/models/networks.py makes them and its answers."""

import json

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, pomona

NETWORKS = ROOT / "tests/models/networks"


# Of float16, the sums are rounded in another order. What lies between two integers can go either way, and attention passes that on:
# with and without its own optimisation, ONNX Runtime differs from itself by up to 0.04 on these pictures. As tract optimises the
# vision transformer, it was 2.0 apart.
LIMITS = {"mobilenet-v3-f16": 1e-2, "mobilenet-v3-qdq": 1e-2, "vit-tiny-qdq": 1e-1}


KERNELS = ["resnet18", "efficientnet-b0", "mobilenet-v3", "mobilenet-v3-keras", "squeezenet", "densenet"]


@pytest.mark.parametrize("name", [*KERNELS, "vit-tiny", "convnext", *LIMITS])
def test_features_are_those_of_onnx_runtime(tmp_path, name):
    expected = json.loads((NETWORKS / name / "features.json").read_text())
    pomona("run", NETWORKS / "images", tmp_path, "--model", NETWORKS / name, "--feature-range", 32, "-k", 2)
    table = pd.read_parquet(tmp_path / "features/v=00000001")
    extractor = json.loads((tmp_path / "versions/00000001.json").read_text())["extractor"]
    assert extractor.get("tract", False) == (name not in KERNELS)
    assert set(table["path"]) == set(expected)
    for path, row in zip(table["path"], table["features"]):
        theirs = np.array(expected[path])
        difference = np.linalg.norm(row - theirs) / np.linalg.norm(theirs)
        print(f"{name}, {path}: {difference:.1e} of the norm")
        assert row.shape == theirs.shape and difference <= LIMITS.get(name, 1e-4)
