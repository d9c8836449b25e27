"""examples/explore.ipynb on outputs of each kind, in a folder and in a bucket."""

import contextlib
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import nbformat
import pomona
import pytest
from nbclient import NotebookClient

ROOT = pathlib.Path(__file__).parents[2]
NOTEBOOK = ROOT / "examples/explore.ipynb"
MINISTACK = pathlib.Path(os.environ.get("POMONA_VENVS", ROOT / ".venv")) / "ministack/bin"


def execute(output, monkeypatch):
    """Runs the notebook; returns what it prints, and the number of its pictures."""
    monkeypatch.setenv("POMONA_OUTPUT", str(output))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(ROOT / "examples")}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    printed = "".join(output.text for output in outputs if output.get("name") == "stdout")
    return printed, sum("image/png" in output.get("data", {}) for output in outputs)


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("notebook")
    subprocess.run([sys.executable, "-m", "pomona", "demo", folder, "--views", "8", "--images-only"], check=True, capture_output=True)
    return folder / "images"


def test_flat(images, tmp_path, monkeypatch):
    data = pomona.run(images, tmp_path / "results", components=5, progress=False)
    printed, pictures = execute(tmp_path / "results", monkeypatch)
    found = re.search(r"version (\d+): (\d+) images in (\d+) labels, (\d+) rejects", printed)
    assert [int(number) for number in found.groups()] == [1, 112, 14, 0]
    components, explained = re.search(r"(\d+) components explain ([\d.]+)%", printed).groups()
    ratio = sum(data.manifest["basis"]["explained_variance_ratio"])
    assert int(components) == 5 and float(explained) == pytest.approx(100 * ratio, abs=0.06)
    assert float(re.search(r"accuracy ([\d.]+)%", printed).group(1)) == pytest.approx(100 * data.accuracy, abs=0.06)
    assert pictures >= 4


def test_one_folder_per_label(images, tmp_path, monkeypatch):
    pomona.run(images, tmp_path / "results", components=5, partition_by_label=True, progress=False)
    printed, pictures = execute(tmp_path / "results", monkeypatch)
    assert "112 images in 14 labels" in printed and pictures >= 4


def test_without_labels_and_with_one_component(images, tmp_path, monkeypatch):
    (tmp_path / "images").mkdir()
    for number, file in enumerate(sorted(images.rglob("*.jpg"))[:20]):
        shutil.copy(file, tmp_path / f"images/{number}.jpg")
    pomona.run(tmp_path / "images", tmp_path / "results", components=1, progress=False)
    printed, pictures = execute(tmp_path / "results", monkeypatch)
    assert "20 images in 1 labels" in printed and "no classifier" in printed and pictures >= 4


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """A bucket on a local S3. `make test-package` installs it."""
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    endpoint = f"http://127.0.0.1:{port}"
    env = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "GATEWAY_PORT": str(port), "BIND_HOST": "127.0.0.1"}
    with open(tmp_path / "log", "w") as log:
        server = subprocess.Popen([MINISTACK / "ministack"], env=env, cwd=tmp_path, stdout=log, stderr=log)
        for _ in range(200):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{endpoint}/_ministack/health", timeout=2)
                break
            time.sleep(0.1)
        for name, value in [("AWS_ENDPOINT_URL", endpoint), ("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "test"),
                            ("AWS_DEFAULT_REGION", "us-east-1"), ("AWS_REGION", "us-east-1"), ("AWS_EC2_METADATA_DISABLED", "true")]:
            monkeypatch.setenv(name, value)
        urllib.request.urlopen(urllib.request.Request(f"{endpoint}/photos", method="PUT"))
        yield "s3://photos"
        server.terminate()
        server.wait()


def test_in_a_bucket(images, bucket, monkeypatch):
    import pyarrow.fs

    pyarrow.fs.copy_files(str(images), f"{bucket}/images")
    pomona.run(f"{bucket}/images/", f"{bucket}/results/", components=5, progress=False)
    printed, pictures = execute(f"{bucket}/results/", monkeypatch)
    assert "112 images in 14 labels" in printed and pictures >= 4


def test_the_stored_outputs_are_those_of_a_run():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in cells)
    assert sum("image/png" in output.get("data", {}) for cell in cells for output in cell.outputs) >= 4
    assert NOTEBOOK.stat().st_size < 1_000_000
