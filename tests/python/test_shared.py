"""Compares with real images and figures in a folder next to the checkout. Without that folder there is nothing to compare
here; tests/golden and the other tests cover the same code."""

import json

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, Output, pomona

SHARED = ROOT.parent / "shared"
pytestmark = pytest.mark.skipif(not (SHARED / "golden").exists(), reason="the shared samples are not here")


def cosines(ours, golden):
    golden = golden.set_index("path").loc[ours["path"]]
    a, b = np.stack(ours["features"]).astype(float), np.stack(golden["features"]).astype(float)
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    return tmp_path_factory.mktemp("shapes")


@pytest.mark.parametrize("name, options, cumulative, needed", [
    ("standardized", [], 0.7092, 151), ("centred", ["--no-standardize"], 0.8938, 54),
])
def test_fruit_shapes_have_numpys_principal_components(shapes, name, options, cumulative, needed):
    images = SHARED / "samples/fruit-shapes"
    pomona("run", images, shapes / "results", "-k", 50, "--rebuild", *options)
    output = Output(shapes / "results")
    assert (output.manifest["images"], output.manifest["rejects"]) == (600, 0)
    ratio = sum(output.manifest["basis"]["explained_variance_ratio"])
    figures = json.loads((SHARED / "golden/fruit-shapes.pca.json").read_text())[name]
    assert abs(ratio - cumulative) <= 0.0005 and abs(ratio - figures["cumulative_50"]) <= 0.0005
    assert output.manifest["basis"]["constant_columns"] == figures["zero_variance_columns"]
    assert cosines(output.features(), pd.read_parquet(SHARED / "golden/fruit-shapes.features.parquet")).min() >= 0.99999
    pomona("run", images, shapes / "results", "--variance", 0.9, "--rebuild", *options)
    assert abs(Output(shapes / "results").manifest["basis"]["components"] - needed) <= 1


@pytest.mark.parametrize("name, images", [("photos", 6), ("fruits-360", 804)])
def test_pictures_give_the_features_of_others(tmp_path, name, images):
    """Of Keras, and for fruits-360 of ONNX Runtime on the pixels of Pillow 12.2."""
    pomona("run", SHARED / "samples" / name, tmp_path)
    output = Output(tmp_path)
    found = cosines(output.features(), pd.read_parquet(SHARED / f"golden/{name}.features.parquet"))
    assert len(found) == images and found.min() >= 0.99999
