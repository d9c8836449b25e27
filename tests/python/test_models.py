"""ONNX models with their own preprocessing, against Pillow and NumPy.

The models of tests/models answer the means of 8 x 8 patches of what goes into them.
"""

import json
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from conftest import POMONA, ROOT, pomona
from PIL import Image

IMAGENET = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
FILTERS = {0: Image.Resampling.NEAREST, 1: Image.Resampling.LANCZOS, 2: Image.Resampling.BILINEAR, 3: Image.Resampling.BICUBIC,
           4: Image.Resampling.BOX, 5: Image.Resampling.HAMMING}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Pictures larger and smaller than the model's input, none of them higher than wide: for those, Pillow 13 resizes the columns
    first, and pixels differ by one from those of Pillow 7 to 12, which are Pomona's."""
    folder = tmp_path_factory.mktemp("models")
    random = np.random.default_rng(1)
    for number, size in enumerate([(60, 45), (45, 40), (33, 32), (24, 20), (200, 90), (32, 32)]):
        noise = Image.fromarray(random.integers(0, 256, (7, 9, 3), dtype=np.uint8))
        (folder / f"images/{number % 2}").mkdir(parents=True, exist_ok=True)
        noise.resize(size, Image.Resampling.BICUBIC).save(folder / f"images/{number % 2}/{number}.png")
    return folder / "images"


def model(folder, name, config, file="preprocessor_config.json"):
    folder.mkdir()
    shutil.copy(ROOT / f"tests/models/{name}.onnx", folder / "model.onnx")
    if config is not None:
        (folder / file).write_text(json.dumps(config))
    return folder


def features(images, results, *args):
    pomona("run", images, results, "-k", 2, *args)
    table = pd.read_parquet(results / "features/v=00000001")
    return np.stack(table["features"]), [Image.open(images / path).convert("RGB") for path in table["path"]]


def shortest(picture, edge, resample):
    width, height = picture.size
    size = (edge, int(edge * height / width)) if width <= height else (int(edge * width / height), edge)
    return picture.resize(size, resample)


def middle(pixels, height, width):
    """The part in the middle, black where the picture ends."""
    padded = np.zeros((max(height, len(pixels)), max(width, pixels.shape[1]), 3), pixels.dtype)
    top, left = -(-(len(padded) - len(pixels)) // 2), -(-(padded.shape[1] - pixels.shape[1]) // 2)
    padded[top : top + len(pixels), left : left + pixels.shape[1]] = pixels
    top, left = (len(padded) - height) // 2, (padded.shape[1] - width) // 2
    return padded[top : top + height, left : left + width]


def patches(pixels, scale, mean, std):
    """[48]: what the model makes of pixels, [32, 32, 3]."""
    normal = (pixels.astype(np.float64) * scale - mean) / std
    return normal.reshape(4, 8, 4, 8, 3).mean((1, 3)).transpose(2, 0, 1).reshape(-1)


@pytest.mark.parametrize("resample", FILTERS)
def test_a_configuration_of_hugging_face(images, tmp_path, resample):
    mean, std = IMAGENET
    folder = model(tmp_path / "model", "patches", {
        "do_resize": True, "size": {"shortest_edge": 40}, "resample": resample, "do_center_crop": True,
        "crop_size": {"height": 32, "width": 32}, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True,
        "image_mean": mean, "image_std": std})
    found, pictures = features(images, tmp_path / "results", "--model", folder)
    expected = [patches(middle(np.asarray(shortest(picture, 40, FILTERS[resample])), 32, 32), 1 / 255, mean, std) for picture in pictures]
    np.testing.assert_allclose(found, expected, atol=2e-6)


def test_a_configuration_of_timm(images, tmp_path):
    mean, std = IMAGENET
    folder = model(tmp_path / "model", "patches", {"architecture": "resnet18", "pretrained_cfg": {
        "input_size": [3, 32, 32], "interpolation": "bicubic", "crop_pct": 0.8, "crop_mode": "center", "mean": mean, "std": std}}, "config.json")
    found, pictures = features(images, tmp_path / "results", "--model", folder / "model.onnx")
    expected = [patches(middle(np.asarray(shortest(picture, 40, Image.Resampling.BICUBIC)), 32, 32), 1 / 255, mean, std) for picture in pictures]
    np.testing.assert_allclose(found, expected, atol=2e-6)
    manifest = json.loads((tmp_path / "results/versions/00000001.json").read_text())
    assert manifest["extractor"]["preprocessing"]["crop"] == [32, 32]
    # Later commands prepare photos as the run did.
    photo = next(images.rglob("*.png"))
    hits = json.loads(pomona("search", tmp_path / "results", photo, "--model", folder, "--json", "-n", 1))
    assert hits[0]["path"] == str(photo.relative_to(images)) and hits[0]["distance"] == 0


def test_another_preprocessing_is_another_extractor(images, tmp_path):
    folder = model(tmp_path / "model", "patches", None)
    plain, pictures = features(images, tmp_path / "results", "--model", folder)
    expected = [patches(np.asarray(picture.resize((32, 32), Image.Resampling.BICUBIC)), 1 / 127.5, 1, 1) for picture in pictures]
    np.testing.assert_allclose(plain, expected, atol=2e-6)
    done = subprocess.run([POMONA, "run", images, tmp_path / "results", "-k", "2", "--model", folder, "--preprocess", "half"],
                          capture_output=True, text=True)
    assert done.returncode == 1 and "Dataset.SettingsChanged" in done.stderr


def test_a_chosen_preprocessing_stands_above_the_files_beside_the_model(images, tmp_path):
    """Also in later commands, which know it from the version: the default has no field in the manifest."""
    folder = model(tmp_path / "model", "patches", {"image_mean": 0.5, "image_std": 0.5})
    found, pictures = features(images, tmp_path / "results", "--model", folder, "--preprocess", "keras-mobilenet")
    expected = [patches(np.asarray(picture.resize((32, 32), Image.Resampling.BICUBIC)), 1 / 127.5, 1, 1) for picture in pictures]
    np.testing.assert_allclose(found, expected, atol=2e-6)
    photo = next(images.rglob("*.png"))
    hits = json.loads(pomona("search", tmp_path / "results", photo, "--model", folder, "--json", "-n", 1))
    assert hits[0]["path"] == str(photo.relative_to(images)) and hits[0]["distance"] == 0


def test_outputs_and_pooling(images, tmp_path):
    folder = model(tmp_path / "model", "tokens", None)
    vector, _ = features(images, tmp_path / "vector", "--model", folder, "--model-output", "vector")
    tokens = vector.reshape(-1, 3, 16).transpose(0, 2, 1)
    mean, _ = features(images, tmp_path / "mean", "--model", folder, "--model-output", "tokens")
    cls, _ = features(images, tmp_path / "cls", "--model", folder, "--model-output", "tokens", "--pooling", "cls")
    np.testing.assert_allclose(mean, tokens.mean(1), atol=2e-6)
    np.testing.assert_array_equal(cls, tokens[:, 0])
    for args, words in [([], "--model-output"), (["--model-output", "nothing"], "tokens, vector")]:
        done = subprocess.run([POMONA, "run", images, tmp_path / "no", "--model", folder, *args], capture_output=True, text=True)
        assert done.returncode == 1 and "Model.Invalid" in done.stderr and words in done.stderr, done.stderr


def test_a_model_of_any_size_takes_that_of_its_preprocessing(images, tmp_path):
    folder = model(tmp_path / "model", "patches-any", {"size": {"height": 48, "width": 64}, "resample": 2, "image_mean": 0.5, "image_std": 0.5})
    found, pictures = features(images, tmp_path / "results", "--model", folder)
    normal = [np.asarray(picture.resize((64, 48), Image.Resampling.BILINEAR)) / 255 * 2 - 1 for picture in pictures]
    np.testing.assert_allclose(found, [pixels.mean((0, 1)) for pixels in normal], atol=2e-6)


def test_numbers_of_the_command_line_stand_above_a_name_and_a_file(images, tmp_path):
    mean, std = IMAGENET
    folder = model(tmp_path / "model", "patches", {"size": {"shortest_edge": 99}, "resample": 3, "image_mean": 0.5, "image_std": 0.5})
    given = ["--resize", 40, "--crop", "24x32", "--mean", ",".join(map(str, mean)), "--std", ",".join(map(str, std))]
    found, pictures = features(images, tmp_path / "results", "--model", folder, *given)
    cut = [middle(np.asarray(shortest(picture, 40, Image.Resampling.BICUBIC)), 24, 32) for picture in pictures]
    seen = [np.asarray(Image.fromarray(pixels).resize((32, 32), Image.Resampling.BICUBIC)) for pixels in cut]
    np.testing.assert_allclose(found, [patches(pixels, 1 / 255, mean, std) for pixels in seen], atol=2e-6)
    # One number is for all channels; what is not named is as the name says.
    half, _ = features(images, tmp_path / "half", "--model", folder, "--preprocess", "half", "--resize", "30x28")
    resized = [picture.resize((28, 30), Image.Resampling.BILINEAR).resize((32, 32), Image.Resampling.BILINEAR) for picture in pictures]
    np.testing.assert_allclose(half, [patches(np.asarray(picture), 1 / 255, 0.5, 0.5) for picture in resized], atol=2e-6)
    flat, _ = features(images, tmp_path / "flat", "--model", folder, "--resize", "none", "--std", 2)
    whole = [picture.resize((32, 32), Image.Resampling.BICUBIC) for picture in pictures]
    np.testing.assert_allclose(flat, [patches(np.asarray(picture), 1 / 255, 0, 2) for picture in whole], atol=2e-6)
    for wrong in (["--mean", "1,2"], ["--crop", "ax3"], ["--resize", "0"], ["--std", "0"]):
        done = subprocess.run([POMONA, "run", images, tmp_path / "no", "--model", folder, *wrong], capture_output=True, text=True)
        assert done.returncode != 0 and "panicked" not in done.stderr and not (tmp_path / "no/versions").exists(), done


def test_features_of_unit_length(images, tmp_path):
    folder = model(tmp_path / "model", "patches", None)
    plain, _ = features(images, tmp_path / "plain", "--model", folder)
    unit, _ = features(images, tmp_path / "unit", "--model", folder, "--l2")
    np.testing.assert_allclose(unit, plain / np.linalg.norm(plain, axis=1, keepdims=True), atol=2e-6)
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, atol=1e-5)
    photo = next(images.rglob("*.png"))
    hits = json.loads(pomona("search", tmp_path / "unit", photo, "--model", folder, "--json", "-n", 1))
    assert hits[0]["path"] == str(photo.relative_to(images)) and hits[0]["distance"] == 0


def test_an_output_keeps_a_model(images, tmp_path):
    folder, results = model(tmp_path / "model", "patches", {"size": 32, "resample": 2, "image_mean": 0.5, "image_std": 0.25}), tmp_path / "results"
    record = json.loads(pomona("model", "push", folder, results, "--l2", "--json"))
    kept = results / "models" / record["model_sha256"]
    assert (kept / "model.onnx").read_bytes() == (folder / "model.onnx").read_bytes()
    assert record["preprocessing"]["std"] == [0.25] * 3 and record["l2"] and record["milliseconds_per_image"] > 0 and record["memory_mb"] > 10
    found, _ = features(images, results, "--model", folder, "--l2")
    # Later commands find it in the output.
    original = folder.rename(tmp_path / "elsewhere")
    assert json.loads(pomona("run", images, results, "-k", 2, "--json"))["up_to_date"]
    photo = next(images.rglob("*.png"))
    hits = json.loads(pomona("search", results, photo, "--json", "-n", 1))
    assert hits[0]["path"] == str(photo.relative_to(images)) and hits[0]["distance"] == 0
    (images / "0/new.png").write_bytes(photo.read_bytes())
    try:
        assert json.loads(pomona("run", images, results, "-k", 2, "--json"))["inferred"] == 1
        pomona("vacuum", results, "--keep-versions", 1, "--older-than", 0)
        assert "no damage" in pomona("check", results)
    finally:
        (images / "0/new.png").unlink()
    measured = json.loads(pomona("aws", "estimate", "--images", 1000, "--model", kept, "--json"))
    assert measured != json.loads(pomona("aws", "estimate", "--images", 1000, "--json"))
    # Another byte: named by the check, and by what needs the model.
    damaged = bytearray((kept / "model.onnx").read_bytes())
    damaged[-1] ^= 1
    (kept / "model.onnx").write_bytes(damaged)
    for command in (["check", results], ["search", results, photo]):
        done = subprocess.run([POMONA, *map(str, command)], capture_output=True, text=True)
        assert done.returncode == 1 and f"models/{kept.name}/model.onnx" in done.stdout + done.stderr, done
    # Pushed again, it is whole.
    pomona("model", "push", original, results, "--l2")
    assert "no damage" in pomona("check", results)
    # Without it, the model is asked for.
    (kept / "model.onnx").unlink()
    done = subprocess.run([POMONA, "search", results, photo], capture_output=True, text=True)
    assert done.returncode == 1 and "--model" in done.stderr, done


def test_wrong_configurations_are_named_and_read_nothing_else(images, tmp_path):
    folder = model(tmp_path / "model", "patches", {"size": {"shortest_edge": "../../etc/passwd"}})
    done = subprocess.run([POMONA, "run", images, tmp_path / "no", "--model", folder], capture_output=True, text=True)
    assert done.returncode == 1 and "Model.Invalid" in done.stderr and "field: size" in done.stderr, done.stderr
    assert "preprocessor_config.json" in done.stderr


def test_a_model_is_looked_at_before_it_is_used():
    found = json.loads(pomona("model", "check", ROOT / "tests/models/networks/efficientnet-b0", ROOT / "tests/models/networks/images", "--json",
                              "--python", sys.executable))
    interface = found["interface"]
    assert interface["inputs"] == [{"name": "pixel_values", "shape": ["batch", "3", "64", "64"]}]
    assert interface["outputs"] == [{"name": "features", "shape": ["batch", "24"]}] and interface["operators"]["Sigmoid"] == 65
    assert found["runtime"] == "kernels" and found["reason"] is None and found["preprocessing"]["crop"] == [64, 64] and found["extractor"]["columns"] == 24
    assert found["sample"]["images"] == 4 and found["sample"]["constant_columns"] == 0 and found["sample"]["milliseconds"] > 0
    assert found["onnx_runtime"]["difference"] < 1e-4
    of_tract = json.loads(pomona("model", "check", ROOT / "tests/models/networks/convnext", "--json", "--python", "no-such-program"))
    assert of_tract["runtime"] == "tract" and "(Transpose)" in of_tract["reason"]
    # The built-in model's own file runs on the kernels; pictures of the demo are the sample.
    text = pomona("model", "check", ROOT / "models/mobilenetv2_1.00_224.onnx", "--python", "no-such-program")
    assert "runs on       kernels\n" in text and "56 images, 0 rejects" in text and "not installed" in text
    broken = subprocess.run([POMONA, "model", "check", ROOT / "tests/models/two-inputs.onnx"], capture_output=True, text=True, check=False)
    assert broken.returncode == 1 and "Model.Invalid" in broken.stderr and "2 inputs" in broken.stderr, broken.stderr
