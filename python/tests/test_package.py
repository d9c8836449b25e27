"""The Python package, against the program and against others' code."""

import doctest
import json
import pathlib
import signal
import subprocess
import sys
import threading
import time
import types

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pomona
import pyarrow as pa
import pytest
from pomona import _run
from sklearn.decomposition import PCA

ROOT = pathlib.Path(__file__).parents[2]
TINY = ROOT / "tests/models/tiny.onnx"
PROGRAM = [sys.executable, "-m", "pomona"]


def program(*args, **options):
    done = subprocess.run([*PROGRAM, *map(str, args)], capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """The demo's pictures, and a run of the program on them."""
    folder = tmp_path_factory.mktemp("package")
    program("demo", folder, "--views", 20, "-k", 8)
    return folder


@pytest.fixture(scope="session")
def data(folder):
    return pomona.open(folder / "results")


def tables(output):
    """The bytes of the tables of an output."""
    names = ["pca/*/*.parquet", "basis/*", "shards/*/features.parquet", "predictions/*/*", "classifier/*", "duplicates/*/*", "index/*"]
    return {str(path.relative_to(output)): path.read_bytes() for name in names for path in pathlib.Path(output).glob(name)}


def test_a_run_of_the_module_writes_the_bytes_of_the_program(folder, tmp_path):
    ours = pomona.run(folder / "images", tmp_path / "results", components=8, progress=False)
    assert ours.version == 1 and ours.images == 280 and "280 images" in repr(ours)
    assert tables(tmp_path / "results") == tables(folder / "results")
    assert (tmp_path / "results/report.html").exists()
    assert pomona.run(folder / "images", tmp_path / "results", progress=False).version == 1
    with pytest.warns(UserWarning, match="other settings .* pca"):
        changed = pomona.run(folder / "images", tmp_path / "results", variance=0.5, csv=True, progress=False)
    assert (changed.version, changed.manifest["figures"]["inferred"]) == (2, 0)
    assert pomona.versions(tmp_path / "results") == [1, 2]
    assert pomona.open(tmp_path / "results", 1).manifest["settings"]["pca"] == {"components": 8}


def test_tables_are_those_of_the_files_and_open_without_a_copy(data, folder):
    features = data.features()
    assert isinstance(features, pa.Table) and features.num_rows == 280
    files = pd.read_parquet(folder / "results/features/v=00000001")
    ours = features.to_pandas()
    assert ours["path"].tolist() == files["path"].tolist() == sorted(files["path"])
    assert np.array_equal(np.stack(ours["features"]), np.stack(files["features"]))
    # The interface of Arrow's PyCapsules.
    assert pl.DataFrame(features).height == 280 and hasattr(features, "__arrow_c_stream__")
    scores = data.scores()
    assert duckdb.sql("select count(*), count(distinct label) from scores").fetchall() == [(280, 14)]
    assert data.predictions().num_rows == 280 and data.rejects().num_rows == 0
    assert data.duplicates().num_rows >= 0 and data.outliers().num_rows >= 0


def test_matrix_and_transform_are_those_of_scikit_learn(data):
    paths, labels, x = data.matrix()
    assert (len(paths), len(labels), x.shape, x.dtype) == (280, 280, (280, 1280), np.float32)
    x = x.astype(np.float64)
    deviation = x.std(0, ddof=1)
    varies = deviation > 0
    standard = (x - x.mean(0))[:, varies] / deviation[varies]
    peer = PCA(8, svd_solver="full").fit(standard)
    ours = data.basis.transform(x)
    theirs = peer.transform(standard)
    theirs *= np.sign((ours * theirs).sum(0))
    scale = np.abs(theirs).max()
    assert np.abs(ours - theirs).max() <= 1e-6 * scale
    assert np.abs(data.basis.explained_variance_ratio[0] / peer.explained_variance_ratio_[0] - 1) < 1e-9
    scores = np.stack(data.scores().to_pandas()["pca_features"])
    assert np.abs(ours - scores).max() <= 1e-6 * scale
    with pytest.raises(ValueError, match=r"\[images, 1280\]"):
        data.basis.transform(x[:, :5])


def test_features_of_photos_are_those_of_the_table(data, folder):
    paths, _, x = data.matrix()
    photos = [folder / "images" / path for path in paths[:3]]
    assert np.array_equal(pomona.features(photos), x[:3])
    assert np.array_equal(pomona.features(photos[0].read_bytes()), x[:1])
    with open(photos[1], "rb") as file:
        assert np.array_equal(pomona.features(file), x[1:2])
    with pytest.raises(ValueError, match="1 cannot be read as an image"):
        pomona.features([photos[0], b"no picture"])
    rows = pomona.features([b"no picture", photos[0]], on_error="nan")
    assert np.isnan(rows[0]).all() and np.array_equal(rows[1], x[0])


def test_predictions_and_search_are_those_of_the_program(data, folder):
    photo = sorted((folder / "images").rglob("*.jpg"))[100]
    said = json.loads(program("predict", folder / "results", photo, "--json"))[0]
    (ours,) = data.predict(photo, neighbours=3)
    assert (ours.label, ours.probability, ours.second) == (said["label"], said["probability"], said["second"]["label"])
    assert ours.neighbours == said["neighbours"]
    bad, good = data.predict([b"no picture", photo])
    assert (bad.label, bad.problem) == (None, "not_an_image") and good.label == ours.label
    hits = json.loads(program("search", folder / "results", photo, "-n", 5, "--json"))
    assert [(hit.path, hit.distance, hit.label) for hit in data.search(photo, count=5)] == [tuple(hit.values()) for hit in hits]
    like = data.search(like=hits[0]["path"], metric="euclidean", space="scores", label=hits[0]["label"], count=4)
    assert len(like) == 4 and {hit.label for hit in like} == {hits[0]["label"]} and hits[0]["path"] not in [hit.path for hit in like]
    with pytest.raises(ValueError, match="either a photo or like"):
        data.search()


def test_errors_have_their_name_and_advice(data, folder, tmp_path):
    with pytest.raises(pomona.Error) as raised:
        pomona.open(tmp_path / "nothing")
    assert raised.value.name == "Output.NoVersion" and "pomona run" in raised.value.advice and not raised.value.retryable
    with pytest.raises(pomona.Error, match=r"Input.NotFound"):
        pomona.run(tmp_path / "nothing", tmp_path / "results", progress=False)
    with pytest.raises(pomona.Error, match=r"Input.Invalid.*unknown field `cvs`"):
        pomona.run(folder / "images", tmp_path / "results", cvs=True, progress=False)
    with pytest.raises(pomona.Error, match=r"Input.UnknownKey.*Lemon/nothing.jpg"):
        data.search(like="Lemon/nothing.jpg")
    with pytest.raises(ValueError, match="either components or variance"):
        pomona.run(folder / "images", tmp_path / "results", components=3, variance=0.9)


def test_partitioned_and_unlabelled_outputs_are_read(folder, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for number, path in enumerate(sorted((folder / "images").rglob("*.jpg"))[:12]):
        (images / f"{number:02}.jpg").write_bytes(path.read_bytes())
    (images / "broken.jpg").write_bytes(b"no picture")
    flat = pomona.run(images, tmp_path / "flat", max_reject_percent=20, progress=False)
    assert flat.features()["label"].null_count == 12 and flat.accuracy is None
    assert flat.rejects().to_pylist()[0]["path"] == "broken.jpg"
    options = {"partition_by_label": True, "model": TINY, "progress": False}
    parts = pomona.run(folder / "images", tmp_path / "parts", **options)
    scores = parts.scores()
    assert scores["path"].to_pylist() == parts.features()["path"].to_pylist()
    assert scores["label"].to_pylist() == parts.features()["label"].to_pylist()


def test_ctrl_c_stops_a_run_and_the_next_one_goes_on(folder, tmp_path):
    code = f"import pomona; pomona.run({str(folder / 'images')!r}, {str(tmp_path / 'results')!r}, threads=1)"
    child = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    partials = tmp_path / "results"
    while not list(partials.glob("runs/*/featurize.jsonl")) and child.poll() is None:
        time.sleep(0.02)
    child.send_signal(signal.SIGINT)
    _, said = child.communicate(timeout=60)
    assert child.returncode != 0 and "KeyboardInterrupt" in said, said
    assert pomona.run(folder / "images", tmp_path / "results", progress=False).images == 280


def test_other_threads_run_during_a_run(folder, tmp_path):
    count, done = 0, threading.Event()

    def tick():
        nonlocal count
        while not done.wait(0.01):
            count += 1

    thread = threading.Thread(target=tick)
    thread.start()
    pomona.run(folder / "images", tmp_path / "results", progress=False)
    done.set()
    thread.join()
    assert count > 20


def test_the_command_line_has_exit_codes_and_names_of_errors(tmp_path):
    wrong = subprocess.run([*PROGRAM, "show"], capture_output=True, text=True)
    assert wrong.returncode == 2 and "Usage: pomona show" in wrong.stderr
    missing = subprocess.run([*PROGRAM, "show", tmp_path], capture_output=True, text=True)
    assert missing.returncode == 1 and "error[Output.NoVersion]" in missing.stderr
    assert program("--version").split()[1] == pomona.__version__


def test_the_examples_of_the_documentation_run(folder, tmp_path, monkeypatch):
    (tmp_path / "photos").mkdir()
    for path in sorted((folder / "images").rglob("0_*.jpg"))[:8]:
        (tmp_path / "photos" / f"{path.parent.name}.jpg").write_bytes(path.read_bytes())
    monkeypatch.chdir(tmp_path)
    outcome = doctest.testmod(pomona, optionflags=doctest.ELLIPSIS)
    assert outcome.attempted > 3 and outcome.failed == 0


def test_mypy_finds_no_error(tmp_path):
    (tmp_path / "user.py").write_text(
        "import pomona\n"
        "data = pomona.run('photos', 'results', variance=0.9)\n"
        "paths, labels, x = data.matrix()\n"
        "scores = data.basis.transform(x)\n"
        "names: list[str | None] = [answer.label for answer in data.predict(['a.jpg'])]\n"
        "hits: list[pomona.Hit] = data.search(b'', count=3)\n"
    )
    config = tmp_path / "mypy.ini"
    config.write_text("[mypy]\nstrict = True\npython_version = 3.11\n[mypy-pyarrow.*]\nignore_missing_imports = True\n")
    command = [sys.executable, "-m", "mypy", "--config-file", config, "-p", "pomona", "-m", "user"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_visual_words_are_made_kept_and_taken_from_another_output(folder, tmp_path):
    options = ["--extractor", "orb", "--words", 32, "-k", 3]
    program("run", folder / "images", tmp_path / "program", *options)
    data = pomona.run(folder / "images", tmp_path / "module", components=3, extractor="orb", words=32, progress=False)
    assert tables(tmp_path / "module") == tables(tmp_path / "program")
    (file,) = (tmp_path / "module/vocabularies").glob("*.json")
    again = pomona.run(folder / "images", tmp_path / "other", components=3, extractor="orb", vocabulary=file, progress=False)
    assert again.manifest["extractor"] == data.manifest["extractor"]
    # Photos are described with the words of the output, also by later runs and questions.
    path = data.features()["path"][0].as_py()
    assert data.search(folder / "images" / path, count=1)[0].path == path and data.predict(folder / "images" / path)[0].problem is None
    assert pomona.run(folder / "images", tmp_path / "module", components=3, progress=False).manifest["version"] == 1
    kept = pomona.run(folder / "images", tmp_path / "kept", components=3, extractor="orb", vocabulary=file, keypoints=True, progress=False)
    assert "keypoints" not in data.features().column_names
    assert sum(map(len, kept.features()["keypoints"].to_pylist())) == kept.matrix()[2].sum()
    with pytest.raises(pomona.Error, match="vocabulary"):
        pomona.features([folder / "images" / path], extractor="orb")


def test_progress_stays_in_one_line(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(_run, "time", types.SimpleNamespace(monotonic=lambda: now[0]))
    line = _run._Line()
    line("featurize", 0, 1_000)
    now[0] = 4.0
    line("featurize", 500, 1_000)
    line.close()
    printed = capsys.readouterr().err
    assert printed.startswith("\rfeaturize 500 of 1,000, 125/s") and printed.endswith("\r") and "\\" not in printed, printed
