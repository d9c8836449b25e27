"""Measures time and memory by number of images and of threads.

    make bench-scaling          (or: scaling.py --pomona PATH --images 1000 3000 10000 38000 --threads 1 2)

The images come from `pomona demo`. Each run is complete, from process start to last file, and has its own output. The runs are
shuffled, so a machine that becomes slower does not affect one series only. Raw runs go to bench/runs/, a plot to
bench/scaling.svg.
"""

import argparse
import pathlib
import random
import tempfile

import matplotlib
import record
from compare import measure, write_images

matplotlib.use("svg")
import matplotlib.pyplot as plt  # noqa: E402

HERE = pathlib.Path(__file__).parent


def plot(rows, out):
    plt.rcParams["svg.hashsalt"] = "pomona"
    figure, (time, memory) = plt.subplots(1, 2, figsize=(9, 3.6))
    for threads in sorted({row["threads"] for row in rows}):
        mine = sorted((row["images"], row["seconds"], row["peak_mb"]) for row in rows if row["threads"] == threads)
        images, seconds, peak = zip(*mine)
        name = f"{threads} thread{'s' if threads > 1 else ''}"
        time.plot(images, seconds, "o-", label=name)
        memory.plot(images, peak, "o-", label=name)
    for axis, what in ((time, "seconds"), (memory, "peak memory, MB")):
        axis.set_xscale("log")
        axis.set_xlabel("images of 100 x 100")
        axis.set_ylabel(what)
        axis.grid(alpha=0.3)
        axis.legend()
    time.set_yscale("log")
    memory.set_ylim(bottom=0)
    figure.tight_layout()
    figure.savefig(out, metadata={"Date": None})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pomona", type=pathlib.Path, required=True)
    parser.add_argument("--images", type=int, nargs="+", default=[1_000, 3_000, 10_000, 38_000])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    args = parser.parse_args()
    args.pomona = args.pomona.resolve()
    runs = [(images, threads) for images in args.images for threads in args.threads]
    random.Random(1).shuffle(runs)
    rows = []
    with tempfile.TemporaryDirectory() as work, open(pathlib.Path(work) / "log", "w") as log:
        work = pathlib.Path(work)
        folders = {count: write_images(args.pomona, work / str(count), count) for count in args.images}
        for count, threads in runs:
            command = [args.pomona, "run", folders[count], work / f"out-{count}-{threads}", "--threads", threads]
            row = {"images": count, "threads": threads, **measure(command, log)}
            rows.append(row)
            print(f"{count:6} images, {threads} threads: {row['seconds']:7.1f} s, {row['peak_mb']:4} MB", flush=True)
    for threads in args.threads:
        mine = {row["images"]: row for row in rows if row["threads"] == threads}
        few, many = mine[min(mine)], mine[max(mine)]
        growth = (many["seconds"] / many["images"]) / (few["seconds"] / few["images"])
        print(f"{threads} threads: {growth:.2f} times the seconds per image, {many['peak_mb'] / few['peak_mb']:.2f} times the memory")
    rows.sort(key=lambda row: (row["threads"], row["images"]))
    record.write("scaling", runs=rows)
    plot(rows, HERE / "scaling.svg")


if __name__ == "__main__":
    main()
