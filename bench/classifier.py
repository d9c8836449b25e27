"""The classifier beside scikit-learn: accuracy, planted wrong labels, and time.

    make bench-classifier          (or: classifier.py --pomona PATH --example PATH [--data FOLDER...] [--seeds 20])

Accuracy: labels by parent folder, the same folds (a hash of the path), on the demo and on folders of images that are given.
Planted: 1 % of the images move to the folder of another label; of these, the share among the 2 % most suspect labels.
Growth: runs of 2,000 and of --images pictures with and without it, in turn: processor time and peak memory. And the processor
time of `predict` for one photo and for 560.
Time: made-up features of 38,000 images (`examples/classifier_time.rs`), and scikit-learn's LDA and logistic regression on as
many rows. Raw runs go to bench/runs/.
"""

import argparse
import json
import pathlib
import random
import resource
import shutil
import statistics
import subprocess
import tempfile
import time

import numpy as np
import pandas as pd
import record
from compare import measure, write_images
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression


def fold(path):
    import hashlib

    return int.from_bytes(hashlib.sha256(b"fold 1\0" + path.encode()).digest()[:8], "big") % 5


# All images are trained on, also those in folders such as Test.
ALL = ["--split-pattern", "(?<split>^$)", "--max-reject-percent", 10]


def pomona(program, *args):
    done = subprocess.run([program, *map(str, args)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def table(output, name):
    newest = json.loads(max(pathlib.Path(output).glob("versions/*.json")).read_text())
    return pd.read_parquet(pathlib.Path(output) / f"{name}/v={newest['version']:08}").sort_values("path", ignore_index=True)


def accuracy(program, images, output):
    """Accuracy out of fold: Pomona, and scikit-learn's logistic regression with the better of two penalties."""
    summary = json.loads(pomona(program, "run", images, output, "--json", *ALL))
    features = table(output, "features")
    x, y = np.stack(features["features"]).astype(np.float64), features["label"].to_numpy()
    folds = np.array([fold(path) for path in features["path"]])
    peers = {}
    for c in (1.0, 0.1):
        right = 0
        for number in range(5):
            inside = folds == number
            model = LogisticRegression(C=c, max_iter=500).fit(x[~inside], y[~inside])
            right += int((model.predict(x[inside]) == y[inside]).sum())
        peers[f"logistic regression, C={c:g}"] = right / len(y)
    return {"images": len(y), "labels": len(set(y)), "pomona": summary["accuracy"], **peers}


def planted(program, images, work, seeds):
    """Shares of planted labels among the most suspect 2 %, one per seed. The images of `images` are copied."""
    data, output = work / "planted", work / "planted-results"
    shutil.copytree(images, data)
    files = sorted(path for path in data.rglob("*") if path.suffix in (".jpg", ".png"))
    folders = sorted({path.parent for path in files})
    few, top = max(1, round(len(files) * 0.01)), -(-len(files) * 2 // 100)
    shares = []
    for seed in range(seeds):
        chosen = random.Random(seed)
        moved = []
        for path in chosen.sample(files, few):
            to = chosen.choice([folder for folder in folders if folder.name != path.parent.name]) / f"planted-{path.parent.name}-{path.name}"
            moved.append((path, path.rename(to)))
        pomona(program, "run", data, output, *ALL)
        suspects = json.loads(pomona(program, "list", "suspects", output, "--json", "-n", 0))
        first = {suspect["path"] for suspect in suspects[:top]}
        shares.append(sum(str(to.relative_to(data)) in first for _, to in moved) / few)
        for path, to in moved:
            to.rename(path)
    shutil.rmtree(data)
    shutil.rmtree(output)
    return {"images": len(files), "planted": few, "suspects": top, "mean": statistics.mean(shares), "shares": shares}


def spent(*command):
    """Wall clock and processor seconds of a command, and its peak memory."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.NamedTemporaryFile("w+", suffix=".log") as log:
        row = measure(command, log)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return row | {"cpu": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 2)}


def growth(program, work, count, rounds):
    """A run with the classifier beside one without, and predictions with it."""
    images = write_images(program, work / f"growth-{count}", count)
    kinds = {"with": [], "without": ["--no-classifier"]}
    rows = {kind: [] for kind in kinds}
    for _ in range(rounds):
        for kind, options in kinds.items():
            shutil.rmtree(work / kind, ignore_errors=True)
            rows[kind].append(spent(program, "run", images, work / kind, *options))
    photos = sorted(images.rglob("*.jpg"))[:560]
    one, many = (spent(program, "predict", work / "with", *some) for some in (photos[:1], photos))
    medians = {kind: {key: statistics.median(row[key] for row in of_kind) for key in of_kind[0]} for kind, of_kind in rows.items()}
    ratio = statistics.median(a["cpu"] / b["cpu"] for a, b in zip(rows["with"], rows["without"]))
    return {"images": count, **medians, "ratio_of_cpu": round(ratio, 3), "predict_one": one,
            "predict_many_cpu_ms": round(1e3 * many["cpu"] / len(photos), 2), "rounds": rows}


def peer_times(rows, columns, classes):
    """Seconds of scikit-learn on random rows: one LDA, and one logistic regression on a tenth of them."""
    rng = np.random.default_rng(17)
    y = np.arange(rows) % classes
    x = np.clip(rng.normal(0, 0.6, (rows, columns)) + rng.uniform(0, 0.5, (classes, columns))[y], 0, 6)
    started = time.perf_counter()
    LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.2).fit(x, y).predict(x)
    lda = time.perf_counter() - started
    some = slice(0, rows // 10)
    started = time.perf_counter()
    LogisticRegression(max_iter=100).fit(x[some], y[some])
    return {"classes": classes, "lda_one_fit": lda, "logistic_regression_on_a_tenth": time.perf_counter() - started}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pomona", type=pathlib.Path, required=True)
    parser.add_argument("--example", type=pathlib.Path)
    parser.add_argument("--data", type=pathlib.Path, nargs="*", default=[])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--skip", nargs="*", default=[], choices=["accuracy", "planted", "growth", "time", "peers"])
    args = parser.parse_args()
    program, fields = args.pomona.resolve(), {}
    with tempfile.TemporaryDirectory() as work:
        work = pathlib.Path(work)
        pomona(program, "demo", work / "demo", "--images-only")
        data = {"demo": work / "demo/images", **{folder.name: folder for folder in args.data}}
        if "accuracy" not in args.skip:
            fields["accuracy"] = {}
            for name, folder in data.items():
                fields["accuracy"][name] = accuracy(program, folder, work / f"{name}-results")
                print(name, fields["accuracy"][name], flush=True)
        if "planted" not in args.skip:
            fields["planted"] = {}
            for name, folder in data.items():
                fields["planted"][name] = planted(program, folder, work, args.seeds)
                print(name, fields["planted"][name], flush=True)
        if "growth" not in args.skip:
            fields["growth"] = [growth(program, work, count, rounds) for count, rounds in ((2_000, args.rounds), (args.images, 1))]
            print(*fields["growth"], sep="\n", flush=True)
    if args.example and "time" not in args.skip:
        rounds = [subprocess.run([args.example], capture_output=True, text=True, check=True).stdout for _ in range(args.rounds)]
        fields["time"] = [[json.loads(line) for line in text.splitlines()] for text in rounds]
        print(*rounds, sep="\n", flush=True)
    if "peers" not in args.skip:
        fields["peers"] = [peer_times(38_000, 1_280, classes) for classes in (3, 43)]
        print(fields["peers"], flush=True)
    record.write("classifier", **fields)


if __name__ == "__main__":
    main()
