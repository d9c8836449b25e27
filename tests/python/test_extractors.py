"""Extractors without a network, against Pillow and NumPy."""

import io
import json

import numpy as np
import pandas as pd
import pytest
from conftest import pomona
from PIL import Image


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("extractors")
    pomona("demo", folder, "--views", 3, "--images-only")
    # Grey, palette and transparent pictures too.
    picture = Image.open(next((folder / "images").rglob("*.jpg")))
    (folder / "images/others").mkdir()
    for mode in ("L", "P", "RGBA"):
        picture.convert(mode).resize((70, 45)).save(folder / f"images/others/{mode}.png")
    return folder / "images"


def features(images, results):
    table = pd.read_parquet(results / "features/v=00000001")
    pixels = [Image.open(io.BytesIO((images / path).read_bytes())).convert("RGB") for path in table["path"]]
    return np.stack(table["features"]), pixels


def test_raw_features_are_the_pixels_of_pillow(images, tmp_path):
    # A classifier of 3,072 columns takes most of a minute.
    pomona("run", images, tmp_path / "results", "--extractor", "raw", "-k", 3, "--no-classifier")
    found, pictures = features(images, tmp_path / "results")
    expected = [np.asarray(picture.resize((32, 32), Image.Resampling.BICUBIC)).reshape(-1) for picture in pictures]
    assert found.shape == (len(pictures), 3072) and np.array_equal(found, np.stack(expected))


def test_histograms_are_those_of_numpy(images, tmp_path):
    pomona("run", images, tmp_path / "results", "--extractor", "histogram", "-k", 3)
    found, pictures = features(images, tmp_path / "results")
    edges = [np.arange(0, 257, 32)] * 3
    expected = [np.histogramdd(np.asarray(picture).reshape(-1, 3), edges)[0].reshape(-1) / (picture.width * picture.height)
                for picture in pictures]
    np.testing.assert_allclose(found, np.stack(expected), rtol=0, atol=2**-22)
    # Later commands find out what the data set was made with; another extractor is refused.
    asked = str(pd.read_parquet(tmp_path / "results/features/v=00000001")["path"][0])
    hits = json.loads(pomona("search", tmp_path / "results", images / asked, "--json", "-n", 1))
    assert hits[0]["path"] == asked and hits[0]["distance"] == 0
    assert json.loads(pomona("run", images, tmp_path / "results", "--json", "-k", 3))["up_to_date"]
    answers = json.loads(pomona("predict", tmp_path / "results", images / asked, "--json"))
    assert "label" in json.dumps(answers)
