"""Duplicates: distances of copies and of views, planted copies, and the time of the search beside faiss.

    distances:  duplicates.py distances --pomona PATH --data FOLDER... [--pictures 60]
    planted:    duplicates.py planted --pomona PATH [--views 650] [--pictures 225]
    time:       duplicates.py time --example PATH [--rows 20000 100000 1000000] [--noise 20000] [--check 50000]

Distances: some pictures of each folder, copied in twelve ways, in one data set with all pictures of the folders. Prints how far
copies are from their originals, and how many groups of different pictures each limit makes.
Planted: copies of some of the demo's pictures among them, of the same bytes, saved again, resized and cropped. Prints how many of
each the table of duplicates has beside their originals, and whether its groups are those of all pairs (NumPy).
Time: made-up features (`examples/duplicates_time.rs`) in a temporary folder, searched as a run does. If faiss-cpu is installed
(`pip install faiss-cpu`), a flat and an IVF index search the same rows, for up to 50,000 rows. `--check` compares the groups with
those of all pairs (NumPy). Raw runs go to bench/runs/.
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
LEVELS = [0, 0.2, 0.3, 0.42, 0.6, 0.8, 1.5]


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


def matrix(table, name):
    """A column of lists of a table, `[rows, numbers]`."""
    column = table[name].combine_chunks()
    return column.flatten().to_numpy().reshape(len(column), -1)


def rows(output):
    """Paths, features and thumbnails of the newest version."""
    newest = json.loads(max(pathlib.Path(output).glob("versions/*.json")).read_text())
    table = pq.read_table(pathlib.Path(output) / f"features/v={newest['version']:08}")
    return table["path"].to_pylist(), matrix(table, "features").astype(np.float64), matrix(table, "thumbnail").astype(np.float64)


def components(count, pairs):
    """The connected components of some pairs of rows, those with two rows at least, in the order of their first rows."""
    parents = list(range(count))

    def root(row):
        while parents[row] != row:
            parents[row] = parents[parents[row]]
            row = parents[row]
        return row

    for a, b in pairs:
        parents[root(max(root(a), root(b)))] = min(root(a), root(b))
    found = {}
    for row in range(count):
        found.setdefault(root(row), []).append(row)
    return [group for group in found.values() if len(group) > 1]


def near_pairs(x, limit, block=2_000, per_unit=2**20):
    """All pairs of rows within a limit. Products in double precision leave out the far ones; integers decide the others."""
    x = np.ascontiguousarray(x, dtype=np.float64)
    numbers = np.rint(x * per_unit).astype(np.int64)
    assert np.array_equal(numbers / per_unit, x)
    squares, most = (x * x).sum(1), int((limit * per_unit) ** 2)
    for start in range(0, len(x), block):
        rows = x[start : start + block]
        distances = squares[start : start + block, None] + squares[start:] - 2 * rows @ x[start:].T
        for a, b in np.argwhere(distances <= limit * limit * 1.001 + 1e-3):
            if a < b and int(((numbers[start + a] - numbers[start + b]) ** 2).sum()) <= most:
                yield start + int(a), start + int(b)


def near_thumbnails(thumbnails, levels):
    """All pairs of rows whose thumbnails differ by at most this root mean square."""
    return near_pairs(thumbnails, levels * thumbnails.shape[1] ** 0.5, per_unit=16) if levels > 0 else []


def groups(x, limit):
    """Number of groups, of images in them, and of images in the largest one."""
    squares = (x * x).sum(1)
    near = np.argwhere(np.triu(squares[:, None] + squares - 2 * x @ x.T <= limit * limit + 1e-6, 1))
    sizes = np.array([len(group) for group in components(len(x), near)])
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
    paths, features, thumbnails = rows(work / "results")
    # Root mean squares are distances of these.
    thumbnails /= thumbnails.shape[1] ** 0.5
    result = {"pictures": len(files), "copied": len(chosen)}
    for name, x, limits in [("features", features, LIMITS), ("thumbnails", thumbnails, LEVELS)]:
        of = {path.rsplit(".", 1)[0]: row for path, row in zip(paths, x)}
        copies = {}
        for copy in COPIES:
            numbers = [key.split("/")[1] for key in of if key.startswith(f"{copy}/")]
            far = np.sort([np.linalg.norm(of[f"{copy}/{number}"] - of[f"original/{number}"]) for number in numbers])
            copies[copy] = {"median": float(np.median(far)), "90 %": float(np.percentile(far, 90)), "largest": float(far[-1])}
        originals = np.array([of[key] for key in sorted(of) if key.startswith("original/")])
        result[name] = {"copies": copies, "views": {limit: groups(originals, limit) for limit in limits}}
    return result


def made_up(folder):
    """Features and thumbnails of the shards that the example has written, in the order of their paths."""
    files, columns = pathlib.Path(folder).glob("shards/*/features.parquet"), ["features", "thumbnail"]
    tables = sorted((pq.read_table(file, columns=["path", *columns]) for file in files), key=lambda table: table["path"][0].as_py())
    return [np.concatenate([matrix(table, name) for table in tables]) for name in columns]


def peers(x, distance):
    """Seconds and pairs of faiss on the same rows, and the share of the pairs that the IVF index finds."""
    try:
        import faiss
    except ImportError:
        return None

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


# The copies that are planted, by the name of their folder.
PLANTED = ["same bytes", "saved as PNG", "JPEG, quality 95", "JPEG, quality 85", "resized to 200 %", "resized to 90 %", "cropped by 2 %"]


def planted(program, views, pictures, work):
    subprocess.run([program, "demo", work, "--views", str(views), "--images-only"], check=True, capture_output=True)
    files = sorted(file for file in (work / "images").rglob("*") if file.is_file())
    chosen = files[:: max(1, len(files) // pictures)][:pictures]
    for number, file in enumerate(chosen):
        for copy in PLANTED:
            change, quality = COPIES.get(copy, (None, None))
            place = work / "images" / copy / f"{number:05}{file.suffix if change is None else '.png' if quality is None else '.jpg'}"
            place.parent.mkdir(exist_ok=True)
            if change is None:
                place.write_bytes(file.read_bytes())
            else:
                change(Image.open(file).convert("RGB")).save(place, **({} if quality is None else {"quality": quality}))
    subprocess.run([program, "run", work / "images", work / "results"], check=True, capture_output=True)
    paths, x, thumbnails = rows(work / "results")
    table = pq.read_table(work / "results/duplicates/v=00000001").to_pylist()
    group_of = {row["path"]: row["group"] for row in table}
    summary = json.loads((work / "results/versions/00000001.json").read_text())["duplicates"]
    limit, levels = summary["distance"], summary["levels"]
    contents = pq.read_table(work / "results/features/v=00000001", columns=["content_sha256"])["content_sha256"].to_pylist()
    same = {}
    for row, content in enumerate(contents):
        same.setdefault(content, []).append(row)
    equal = [(group[0], row) for group in same.values() for row in group[1:]]
    expected = [[paths[row] for row in group] for group in components(len(x), [*equal, *near_pairs(x, limit), *near_thumbnails(thumbnails, levels)])]
    found = {}
    for row in table:
        found.setdefault(row["group"], []).append(row["path"])
    counts = {}
    for copy in PLANTED:
        of_copy = [path for path in paths if path.startswith(f"{copy}/")]
        originals = [str(chosen[int(path.split("/")[1].split(".")[0])].relative_to(work / "images")) for path in of_copy]
        together = [a in group_of and group_of[a] == group_of.get(b) for a, b in zip(of_copy, originals)]
        counts[copy] = {"planted": len(of_copy), "found": sum(together)}
    # Groups without copies are views of the demo that look the same.
    views = [group for group in found.values() if not any(path.split("/")[0] in PLANTED for path in group)]
    return {
        "images": len(paths), "distance": limit, "levels": levels, "copies": counts, "groups": len(found),
        "groups_of_views": len(views), "views_in_them": sum(map(len, views)), "largest_group": max(map(len, found.values()), default=0),
        "equal_to_all_pairs": list(found.values()) == expected,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["distances", "planted", "time"])
    parser.add_argument("--pomona")
    parser.add_argument("--example")
    parser.add_argument("--data", nargs="*", default=[])
    parser.add_argument("--pictures", type=int, default=60)
    parser.add_argument("--views", type=int, default=650)
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
        if args.what == "planted":
            found.append(planted(args.pomona, args.views, args.pictures, work))
            print(json.dumps(found[-1], indent=1))
        sizes = [(rows, "views") for rows in args.rows] + [(rows, "noise") for rows in args.noise]
        for rows_, kind in sizes if args.what == "time" else []:
            folder = work / f"{kind}-{rows_}"
            command = [args.example, folder, str(rows_), kind, "--groups", work / "groups.json"]
            line = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            x, thumbnails = made_up(folder) if rows_ <= 50_000 else (None, None)
            if rows_ in args.check:
                pairs = [*near_pairs(x, line["distance"]), *near_thumbnails(thumbnails, line["levels"])]
                expected = [[f"{row:09}.jpg" for row in group] for group in components(rows_, pairs)]
                line["equal_to_all_pairs"] = json.loads((work / "groups.json").read_text()) == expected
            line["faiss"] = peers(x, line["distance"]) if x is not None else None
            found.append(line)
            print(json.dumps(line), flush=True)
            subprocess.run(["rm", "-rf", folder], check=True)
    record.write(f"duplicates-{args.what}", found=found)


if __name__ == "__main__":
    main()
