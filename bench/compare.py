"""Compares Pomona with other pipelines on the same images, in one run.

    make bench                      (or: compare.py --pomona PATH --images 2000 --rounds 3)
    make bench-folder FOLDER=fruits-360-3-body-problem WHAT='pictures of Fruits-360'

The images are 100 x 100 JPEGs from `pomona demo`, so the benchmark can be repeated anywhere. In each round, every program
runs once, so a machine that becomes slower affects all programs. The script prints seconds for the whole job (process start
to last file), images/s, peak memory of all processes of a job together, and the ratio to Pomona in the same round (median
over rounds). Raw runs go to bench/runs/ with a description of the machine. PySpark takes minutes, so it runs once unless
--spark-rounds is given. It needs Java 17.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import record

HERE = pathlib.Path(__file__).parent
MODEL = HERE.parent / "models/mobilenetv2_1.00_224.onnx"


def memory_of_group(group):
    """Resident bytes of all processes of a process group; shared pages count once per process."""
    total = 0
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
            if int(fields[2]) == group:
                total += int(fields[21]) * os.sysconf("SC_PAGE_SIZE")
        except (OSError, IndexError, ValueError):
            pass
    return total


def own_peak(process):
    """The peak of a process until now, which the system keeps: between two looks, memory can grow and shrink."""
    try:
        status = pathlib.Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:")), 0)


def measure(command, log):
    """Wall clock seconds and peak memory of a command and its children."""
    started = time.perf_counter()
    process = subprocess.Popen([str(c) for c in command], stdout=log, stderr=log, start_new_session=True)
    peak = 0
    while process.poll() is None:
        peak = max(peak, memory_of_group(process.pid), own_peak(process.pid))
        time.sleep(0.05)
    seconds = time.perf_counter() - started
    if process.returncode != 0:
        sys.exit(f"{command[0]} failed with {process.returncode}; see {log.name}")
    return {"seconds": round(seconds, 3), "peak_mb": round(peak / 2**20)}


def write_images(pomona, folder, count):
    views = -(-count // 14)
    subprocess.run([pomona, "demo", folder, "--images-only", "--views", str(views)], check=True, capture_output=True)
    images = sorted((folder / "images").rglob("*.jpg"))
    for extra in images[count:]:
        extra.unlink()
    return folder / "images"


def write_photos(pomona, folder, count):
    """Photos of 500 x 400: enlarged fruit on grainy backgrounds, which JPEG compresses little."""
    import numpy as np
    from PIL import Image

    images = write_images(pomona, folder, count)
    grain = np.random.default_rng(1).normal(0, 9, (8, 400, 500, 3))
    for i, path in enumerate(sorted(images.rglob("*.jpg"))):
        photo = np.asarray(Image.open(path).resize((500, 400), Image.BICUBIC), float) * 0.85 + 15 + grain[i % 8]
        Image.fromarray(photo.clip(0, 255).astype(np.uint8)).save(path, quality=88)
    return images


def write_phones(pomona, folder, count):
    """Photos of 4,000 x 3,000, 12 megapixels, as phones take them."""
    import numpy as np
    from PIL import Image

    images = write_images(pomona, folder, count)
    grain = Image.fromarray(np.random.default_rng(1).normal(128, 9, (3_000, 4_000, 3)).clip(0, 255).astype(np.uint8))
    for path in sorted(images.rglob("*.jpg")):
        photo = Image.open(path).resize((4_000, 3_000), Image.BICUBIC)
        Image.blend(photo, grain, 0.3).save(path, quality=92)
    return images


def cosines(one, other):
    """Smallest and mean cosine between the features of two outputs."""
    import numpy as np
    import pyarrow.parquet as pq

    def features(output):
        tables = [pq.read_table(file, columns=["path", "features"]) for file in output.glob("features/v=00000001/*.parquet")]
        rows = (row for table in tables for row in table.to_pylist())
        return {row["path"]: np.array(row["features"]) for row in rows}

    a, b = features(one), features(other)
    found = [a[path] @ b[path] / np.sqrt((a[path] @ a[path]) * (b[path] @ b[path])) for path in a]
    return {"worst": float(min(found)), "mean": float(np.mean(found)), "images": len(found)}


def commands(args, images, work):
    python = sys.executable
    if args.phones:
        pomona = lambda how: lambda i: [args.pomona, "run", images, work / f"{how}-{i}", "--decode", how, "--json"]  # noqa: E731
        peer = lambda *how: lambda i: [python, HERE / "peer_onnxruntime.py", images, work / f"ort-{i}{''.join(how)}", 20, MODEL, *how]  # noqa: E731
        return {"pomona": pomona("full"), "onnxruntime": peer(), "pomona scaled": pomona("scaled"), "onnxruntime draft": peer("draft")}
    # Without a classifier, because the others make none; of a folder, a run as it is by default.
    plain = [] if args.folder else ["--no-classifier"]
    run = lambda program, name, *more: lambda i: [program, "run", images, work / f"{name}-{i}", "-k", args.components, "--json", *more]  # noqa: E731
    return {
        "pomona": run(args.pomona, "pomona", *plain),
        **({} if args.folder else {"pomona with classifier": run(args.pomona, "classifier")}),
        **({"before": run(args.before, "before", *plain)} if args.before else {}),
        "onnxruntime": lambda i: [python, HERE / "peer_onnxruntime.py", images, work / f"ort-{i}", args.components, MODEL],
        "pyspark": lambda i: [python, HERE / "peer_pyspark.py", images, work / f"spark-{i}", args.components],
    }


def check_images(args, output):
    """Ends the program if Pomona has other images than those that ONNX Runtime's pipeline reads."""
    images = json.loads((output / "versions/00000001.json").read_text())["images"]
    if images != args.images:
        sys.exit(f"Pomona has {images} images of {args.folder}, but {args.images} are *.jpg, which the other pipeline reads: it would have other work")


def memory_growth(args, work, log):
    """Peak memory of Pomona for 1,000 and for 10,000 images."""
    peaks = {}
    for count in (1_000, 10_000):
        images = write_images(args.pomona, work / f"images-{count}", count)
        peaks[count] = measure([args.pomona, "run", images, work / f"memory-{count}"], log)
        print(f"memory: {count:6} images {peaks[count]['peak_mb']:5} MB {peaks[count]['seconds']:7.1f} s", flush=True)
    ratio = peaks[10_000]["peak_mb"] / peaks[1_000]["peak_mb"]
    print(f"memory: ratio {ratio:.2f} for ten times the images", flush=True)
    return {"runs": peaks, "ratio": round(ratio, 3)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pomona", type=pathlib.Path, required=True)
    parser.add_argument("--before", type=pathlib.Path, help="an earlier build of Pomona, run in the same rounds")
    parser.add_argument("--images", type=int, default=2_000)
    parser.add_argument("--components", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--spark-rounds", type=int, default=1)
    parser.add_argument("--photos", action="store_true", help="photos of 500 x 400 instead of pictures of 100 x 100")
    parser.add_argument("--phones", action="store_true", help="photos of 12 megapixels, decoded whole and scaled")
    parser.add_argument("--folder", type=pathlib.Path, help="JPEGs of this folder, with the classifier and all else that a run makes by default")
    parser.add_argument("--what", default="pictures", help="what is in --folder, for the record")
    parser.add_argument("--no-memory", action="store_true", help="skip the memory runs with 1,000 and 10,000 images")
    args = parser.parse_args()
    args.pomona = args.pomona.resolve()
    args.before = args.before and args.before.resolve()

    runs, growth, scaled = {}, None, None
    with tempfile.TemporaryDirectory() as work, open(pathlib.Path(work) / "log", "w") as log:
        work = pathlib.Path(work)
        write = write_phones if args.phones else write_photos if args.photos else write_images
        images = args.folder.resolve() if args.folder else write(args.pomona, work / "data", args.images)
        if args.folder:
            args.images = sum(1 for _ in images.rglob("*.jpg"))
        for i in range(args.rounds):
            for name, command in commands(args, images, work).items():
                if name == "pyspark" and i >= args.spark_rounds:
                    continue
                run = measure(command(i), log)
                if args.folder and (name, i) == ("pomona", 0):
                    check_images(args, work / "pomona-0")
                runs.setdefault(name, []).append(run)
                print(f"round {i + 1}: {name:22} {run['seconds']:7.1f} s {run['peak_mb']:6} MB", flush=True)
        if args.phones:
            scaled = cosines(work / "full-0", work / "scaled-0")
            print(f"cosine of scaled to full: {scaled['worst']:.6f} at worst, {scaled['mean']:.6f} on average", flush=True)
        if not args.no_memory and not args.folder:
            growth = memory_growth(args, work, log)

    kind = args.what if args.folder else "photos of 12 megapixels" if args.phones else "photos of 500 x 400" if args.photos else "images of 100 x 100"
    print(f"\n{args.images} {kind}, k = {args.components} standardised, {os.cpu_count()} cores; medians")
    print(f"{'':22} {'seconds':>9} {'images/s':>9} {'peak MB':>8} {'x Pomona':>9}")
    summary = {}
    for name, rows in runs.items():
        seconds = statistics.median(r["seconds"] for r in rows)
        ratio = statistics.median(r["seconds"] / p["seconds"] for r, p in zip(rows, runs["pomona"]))
        peak = statistics.median(r["peak_mb"] for r in rows)
        summary[name] = {"seconds": seconds, "images_per_second": round(args.images / seconds, 1), "peak_mb": peak,
                         "ratio_to_pomona": round(ratio, 3)}
        print(f"{name:22} {seconds:9.1f} {args.images / seconds:9.1f} {peak:8.0f} {ratio:9.2f}")

    name = "folder" if args.folder else "phones" if args.phones else "photos" if args.photos else "compare"
    # A run beside an earlier build answers another question than the tables of bench/README.md.
    name = f"{name}-before-after" if args.before else name
    record.write(name, images=args.images, kind=kind, components=args.components,
                 runs=runs, summary=summary, memory=growth, cosine_of_scaled=scaled)


if __name__ == "__main__":
    main()
