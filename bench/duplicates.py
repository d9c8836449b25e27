"""Duplicates: distances of copies and of views, and the time of the search beside faiss.

    distances:  duplicates.py distances --pomona PATH --data FOLDER... [--pictures 60]
    time:       duplicates.py time --example PATH [--rows 20000 100000 1000000] [--noise 20000] [--check 50000]

Distances: some pictures of each folder, copied in twelve ways, in one data set with all pictures of the folders. Prints how far
copies are from their originals, and how many groups of different pictures each limit makes.
Time: made-up features (`examples/duplicates_time.rs`) in a temporary folder, searched as a run does. If faiss-cpu is installed
(`pip install faiss-cpu`), a flat and an IVF index search the same rows, for up to 50,000 rows. Raw runs go to bench/runs/.
"""

import argparse
import json
import pathlib
import subprocess
import tempfile
import time

import numpy as np
import pyarrow.parquet as pq
import record
from PIL import Image, ImageEnhance

LIMITS = [0, 1, 1.5, 2, 2.5, 3, 4, 5, 7]


def crop(image, percent):
    width, height = image.size
    return image.crop((width * percent // 100, height * percent // 100, width - width * percent // 100, height - height * percent // 100))


def resize(image, percent):
    return image.resize((image.width * percent // 100, image.height * percent // 100), Image.Resampling.LANCZOS)


# What is done to a picture, and the quality of its JPEG.
COPIES = {
    "saved as PNG": (lambda image: image, None),
    "JPEG, quality 95": (lambda image: image, 95),
    "JPEG, quality 85": (lambda image: image, 85),
    "JPEG, quality 50": (lambda image: image, 50),
    "resized to 200 %": (lambda image: resize(image, 200), 95),
    "resized to 90 %": (lambda image: resize(image, 90), 95),
    "resized to 50 %": (lambda image: resize(image, 50), 95),
    "cropped by 2 %": (lambda image: crop(image, 2), 95),
    "cropped by 5 %": (lambda image: crop(image, 5), 95),
    "5 % brighter": (lambda image: ImageEnhance.Brightness(image).enhance(1.05), 95),
    "20 % brighter": (lambda image: ImageEnhance.Brightness(image).enhance(1.2), 95),
    "mirrored": (lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), 95),
}


def rows(output):
    """Paths and features of the newest version."""
    newest = json.loads(max(pathlib.Path(output).glob("versions/*.json")).read_text())
    table = pq.read_table(pathlib.Path(output) / f"features/v={newest['version']:08}")
    return table["path"].to_pylist(), np.array(table["features"].to_pylist(), dtype=np.float64)


def groups(x, limit):
    """Number of groups, of images in them, and of images in the largest one."""
    squares = (x * x).sum(1)
    near = np.argwhere(np.triu(squares[:, None] + squares - 2 * x @ x.T <= limit * limit + 1e-6, 1))
    parents = list(range(len(x)))

    def root(row):
        while parents[row] != row:
            row = parents[row]
        return row

    for a, b in near:
        parents[root(a)] = root(b)
    sizes = np.bincount([root(row) for row in range(len(x))])
    sizes = sizes[sizes > 1]
    return {"groups": len(sizes), "images": int(sizes.sum()), "largest": int(sizes.max(initial=0))}


def distances(program, folder, pictures, work):
    files = sorted(file for file in pathlib.Path(folder).rglob("*") if file.suffix.lower() in (".jpg", ".jpeg", ".png", ".bmp"))
    chosen = files[:: max(1, len(files) // pictures)][:pictures]
    for number, file in enumerate(files):
        place = work / "images" / "original" / f"{number:05}{file.suffix.lower()}"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(file.read_bytes())
    for number, file in enumerate(files):
        if file not in chosen:
            continue
        image = Image.open(file).convert("RGB")
        for copy, (change, quality) in COPIES.items():
            place = work / "images" / copy / f"{number:05}{'.png' if quality is None else '.jpg'}"
            place.parent.mkdir(parents=True, exist_ok=True)
            change(image).save(place, **({} if quality is None else {"quality": quality}))
    subprocess.run([program, "run", work / "images", work / "results"], check=True, capture_output=True)
    paths, features = rows(work / "results")
    of = {path.rsplit(".", 1)[0]: row for path, row in zip(paths, features)}
    found = {}
    for copy in COPIES:
        numbers = [key.split("/")[1] for key in of if key.startswith(f"{copy}/")]
        far = np.sort([np.linalg.norm(of[f"{copy}/{number}"] - of[f"original/{number}"]) for number in numbers])
        found[copy] = {"median": float(np.median(far)), "90 %": float(np.percentile(far, 90)), "largest": float(far[-1])}
    originals = np.array([of[key] for key in sorted(of) if key.startswith("original/")])
    return {"pictures": len(files), "copied": len(chosen), "copies": found, "views": {limit: groups(originals, limit) for limit in LIMITS}}


def peers(folder, distance):
    """Seconds and pairs of faiss on the same rows, and the share of the pairs that the IVF index finds."""
    try:
        import faiss
    except ImportError:
        return None
    tables = [pq.read_table(file, columns=["path", "features"]) for file in pathlib.Path(folder).glob("shards/*/features.parquet")]
    x = np.concatenate([np.array(table["features"].to_pylist(), dtype=np.float32) for table in tables])

    def pairs(index):
        limits, _, ids = index.range_search(x, distance * distance)
        owners = np.repeat(np.arange(len(x)), np.diff(limits).astype(int))
        return {(int(a), int(b)) for a, b in zip(owners, ids) if a < b}

    start = time.perf_counter()
    flat = faiss.IndexFlatL2(x.shape[1])
    flat.add(x)
    exact = pairs(flat)
    middle = time.perf_counter()
    ivf = faiss.IndexIVFFlat(faiss.IndexFlatL2(x.shape[1]), x.shape[1], int(4 * len(x) ** 0.5))
    ivf.train(x)
    ivf.add(x)
    ivf.nprobe = 8
    some = pairs(ivf)
    end = time.perf_counter()
    recall = len(some & exact) / max(1, len(exact))
    return {"flat_seconds": middle - start, "ivf_seconds": end - middle, "pairs": len(exact), "ivf_recall": recall}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["distances", "time"])
    parser.add_argument("--pomona")
    parser.add_argument("--example")
    parser.add_argument("--data", nargs="*", default=[])
    parser.add_argument("--pictures", type=int, default=60)
    parser.add_argument("--rows", type=int, nargs="*", default=[20_000, 100_000, 1_000_000])
    parser.add_argument("--noise", type=int, nargs="*", default=[20_000])
    parser.add_argument("--check", type=int, nargs="*", default=[])
    args = parser.parse_args()
    found = []
    with tempfile.TemporaryDirectory() as work:
        work = pathlib.Path(work)
        for number, folder in enumerate(args.data if args.what == "distances" else []):
            found.append(distances(args.pomona, folder, args.pictures, work / str(number)))
            print(json.dumps(found[-1], indent=1))
        sizes = [(rows, "views") for rows in args.rows] + [(rows, "noise") for rows in args.noise]
        for rows_, kind in sizes if args.what == "time" else []:
            folder = work / f"{kind}-{rows_}"
            command = [args.example, folder, str(rows_), kind, *(["--check"] if rows_ in args.check else [])]
            line = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            line["faiss"] = peers(folder, line["distance"]) if rows_ <= 50_000 else None
            found.append(line)
            print(json.dumps(line))
            subprocess.run(["rm", "-rf", folder], check=True)
    record.write(f"duplicates-{args.what}", " ".join(["bench/duplicates.py", args.what]), found=found)


if __name__ == "__main__":
    main()
