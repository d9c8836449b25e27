"""Visual words beside OpenCV and scikit-learn, and beside the network: accuracy and time.

    visual_words.py --pomona PATH --data FOLDER... [--words 256]

For each folder of images: runs with the extractors orb and mobilenetv2, and the images that the classifier predicts correctly out
of fold. Beside them, OpenCV's ORB with the same parameters, k-means of scikit-learn on the bits of the same number of descriptors,
and linear discriminant analysis with the best of several shrinkages, in five folds. Then the time of the keypoints of all images,
on one processor each. Needs opencv-python-headless and scikit-learn. Raw runs go to bench/runs/.
"""

import argparse
import json
import pathlib
import subprocess
import tempfile
import time

import cv2
import numpy as np
import record
from sklearn.cluster import KMeans
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.model_selection import StratifiedKFold, cross_val_predict

BORDER = 16


def files(folder):
    return sorted(file for file in folder.rglob("*") if file.suffix.lower() in (".jpg", ".jpeg", ".png", ".bmp"))


def ours(program, folder, extractor, work, words):
    out = work / extractor
    options = ["--words", str(words)] if extractor == "orb" else []
    started = time.perf_counter()
    subprocess.run([program, "run", folder, out, "--extractor", extractor, "--split-pattern", "(?P<split>none)^", *options],
                   check=True, capture_output=True)
    seconds = time.perf_counter() - started
    found = json.loads(subprocess.run([program, "evaluate", out, "--json"], check=True, capture_output=True).stdout)
    return {"accuracy": found["accuracy"], "seconds": seconds}


def theirs(folder, words):
    """Accuracy of OpenCV and scikit-learn."""
    orb, images, labels = cv2.ORB_create(nfeatures=500, edgeThreshold=BORDER), [], []
    for file in files(folder):
        _, descriptors = orb.detectAndCompute(cv2.imread(str(file), cv2.IMREAD_GRAYSCALE), None)
        images.append(np.zeros((0, 256), np.float32) if descriptors is None else np.unpackbits(descriptors, axis=1).astype(np.float32))
        labels.append(file.parent.name)
    chosen = np.random.default_rng(0).permutation(len(images))[:400]
    clusters = KMeans(words, n_init=1, random_state=0, max_iter=50).fit(np.concatenate([images[at] for at in chosen]))
    counts = np.stack([np.bincount(clusters.predict(image), minlength=words) if len(image) else np.zeros(words) for image in images])
    labels, folds = np.array(labels), StratifiedKFold(5, shuffle=True, random_state=0)
    models = [LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage) for shrinkage in (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)]
    return {"accuracy": max(float((cross_val_predict(model, counts, labels, cv=folds) == labels).mean()) for model in models)}


def speed(program, folder, work):
    """Milliseconds per image, files read and decoded: medians of five rounds in turn."""
    all_files, rounds = files(folder), {"pomona": [], "opencv": []}
    cv2.setNumThreads(1)
    for number in range(5):
        started = time.perf_counter()
        subprocess.run(["taskset", "-c", "0", program, "descriptors", folder, work / f"table-{number}"], check=True, capture_output=True)
        rounds["pomona"].append(1000 * (time.perf_counter() - started) / len(all_files))
        orb, started = cv2.ORB_create(), time.perf_counter()
        for file in all_files:
            orb.detectAndCompute(cv2.imread(str(file), cv2.IMREAD_GRAYSCALE), None)
        rounds["opencv"].append(1000 * (time.perf_counter() - started) / len(all_files))
    return {name: float(np.median(times)) for name, times in rounds.items()} | {"rounds": rounds}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pomona", required=True)
    parser.add_argument("--data", nargs="+", type=pathlib.Path, required=True)
    parser.add_argument("--words", type=int, default=256)
    args = parser.parse_args()
    found = []
    for folder in args.data:
        with tempfile.TemporaryDirectory() as work:
            work = pathlib.Path(work)
            line = {"folder": folder.name, "images": len(files(folder)), "words": args.words}
            line |= {name: ours(args.pomona, folder, name, work, args.words) for name in ("orb", "mobilenetv2")}
            line["opencv_and_scikit_learn"] = theirs(folder, args.words)
            line["milliseconds"] = speed(args.pomona, folder, work)
        found.append(line)
        print(json.dumps(line, indent=1), flush=True)
    record.write("visual-words", found=found)


if __name__ == "__main__":
    main()
