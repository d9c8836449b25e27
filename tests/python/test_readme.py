"""The lines of README.md: every `pomona` command is run, and what the README prints below it is compared."""

import re
import shlex
import shutil
import subprocess

import duckdb
import pandas as pd
import pytest
from conftest import POMONA, ROOT

README = (ROOT / "README.md").read_text()
# What differs from run to run: times, sizes, dates, ids.
VOLATILE = r"\d{4}-\d\d-\d\d( \d\d:\d\d:\d\dZ)?|\d+\.\d+(?= s\b)"
# Commands that wait, need a stack or a bucket, or take other people's pictures.
NOT_HERE = ("pomona serve", "pomona watch", "pomona aws deploy", "pomona aws start", "pomona aws status", "s3://", "fruits-360/", "...")


def blocks(language=None):
    """The indented blocks of the README, or the fenced ones of a language, without their indent."""
    if language:
        return re.findall(rf"```{language}\n(.*?)```", README, re.S)
    return [re.sub(r"^ {4}", "", block, flags=re.M).strip("\n") for block in re.findall(r"(?:^ {4}.*\n|^\n(?= {4}))+", README, re.M)]


def commands():
    """Each `pomona` command of the README, in its order, and the lines that it prints there."""
    for block in blocks():
        found = []
        for line in block.split("\n"):
            if line.startswith(("$ pomona ", "pomona ")):
                found.append((line.removeprefix("$ "), []))
            elif found and line:
                found[-1][1].append(line)
        yield from found


def masked(line):
    return re.sub(r"\s+", " ", re.sub(VOLATILE, "#", line)).strip()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder in which the commands of the README can run: the demo, `photos/`, `results/`, a photo and labels."""
    folder = tmp_path_factory.mktemp("readme")
    subprocess.run([POMONA, "demo", "pomona-demo"], cwd=folder, check=True, capture_output=True)
    photos = folder / "photos"
    for number, path in enumerate(sorted((folder / "pomona-demo/images").rglob("*.jpg"))[::7]):
        (photos / path.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, photos / path.parent.name / f"{path.parent.name.split()[0].lower()}_{number}.jpg")
    (photos / "people").mkdir()
    shutil.copy(path, photos / "people/jane.jpg")
    shutil.copy(path, folder / "photo.jpg")
    (folder / "labels.csv").write_text("path,label\npeople/jane.jpg,Lemon\n")
    return folder


def test_every_command_runs_and_prints_what_the_readme_prints(folder):
    seen = []
    for line, printed in commands():
        if any(part in line for part in NOT_HERE):
            continue
        if "erase" in line:
            (folder / "photos/people/jane.jpg").unlink()
        done = subprocess.run([POMONA, *shlex.split(line, comments=True)[1:]], cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, f"{line}\n{done.stderr}"
        seen.append(line.split()[1])
        if line.startswith("pomona log"):
            # Its versions are those of another data set: the columns are compared.
            assert printed[0].split() == done.stdout.splitlines()[0].split()
        else:
            lines = [masked(line) for line in done.stdout.splitlines()]
            missing = [line for line in printed if masked(line) not in lines]
            assert not missing, f"{line} does not print:\n" + "\n".join(missing)
    assert {"run", "show", "evaluate", "list", "predict", "search", "log", "diff", "check", "vacuum", "erase", "aws"} <= set(seen)
    assert len(seen) >= 17, seen


def test_show_prints_the_lines_of_the_readme(folder):
    block = next(block for block in blocks() if block.startswith("Explained variance"))
    shown = subprocess.run([POMONA, "show", "pomona-demo/results"], cwd=folder, capture_output=True, text=True, check=True).stdout
    lines = [masked(line) for line in shown.splitlines()]
    missing = [line for line in block.split("\n") if masked(line) not in lines]
    assert not missing, "\n".join(missing)


def test_the_tables_open_as_the_readme_opens_them(folder, monkeypatch):
    monkeypatch.chdir(folder)
    scope = {}
    exec(next(block for block in blocks("python") if "read_parquet" in block), scope)
    assert isinstance(scope["scores"], pd.DataFrame) and list(scope["scores"]) == ["path", "label", "pca_features"]
    (query,) = blocks("sql")
    assert duckdb.sql(query.strip().rstrip(";")).fetchall()
