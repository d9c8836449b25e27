"""Measures a run for one new image in a data set of 10,000, compared with the first run.

    make bench-incremental          (or: incremental.py --pomona PATH --images 10000 --rounds 5)

Each round adds one picture and runs again. The program's summary must say that it inferred exactly one image. Raw runs go
to bench/runs/.
"""

import argparse
import json
import pathlib
import shutil
import statistics
import subprocess
import tempfile
import time

import record
from compare import write_images


def run(pomona, images, output, *options):
    started = time.perf_counter()
    done = subprocess.run([pomona, "run", images, output, "--json", *options], capture_output=True, text=True, check=True)
    summary = json.loads(done.stdout)
    keep = ("images", "inferred", "added", "seconds_by_stage")
    return {"seconds": round(time.perf_counter() - started, 3), **{name: summary[name] for name in keep}}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pomona", type=pathlib.Path, required=True)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    args.pomona = args.pomona.resolve()
    with tempfile.TemporaryDirectory() as work:
        work = pathlib.Path(work)
        images = write_images(args.pomona, work / "data", args.images + args.rounds * 2)
        # Some pictures are moved away first and added one by one.
        later = sorted(images.rglob("*.jpg"))[:: args.images // (args.rounds * 2)][: args.rounds * 2]
        (work / "later").mkdir()
        held = [(path, shutil.move(path, work / "later" / f"{i}.jpg")) for i, path in enumerate(later)]
        first = run(args.pomona, images, work / "results")
        print(f"first run: {first['seconds']:.1f} s, {first['inferred']} images inferred", flush=True)
        rounds = {"refit": [], "kept": []}
        for i, (path, source) in enumerate(held):
            shutil.move(source, path)
            kind, options = ("refit", []) if i % 2 == 0 else ("kept", ["--refit", "never"])
            row = run(args.pomona, images, work / "results", *options)
            assert row["inferred"] == row["added"] == 1, row
            rounds[kind].append(row)
            print(f"one more ({kind}): {row['seconds']:.2f} s {row['seconds_by_stage']}", flush=True)
    summary = {}
    for kind, rows in rounds.items():
        seconds = statistics.median(r["seconds"] for r in rows)
        summary[kind] = {"seconds": seconds, "times_faster": round(first["seconds"] / seconds, 1)}
        print(f"{kind}: {seconds:.2f} s, {first['seconds'] / seconds:.0f} times faster than the first run")
    record.write("incremental", f"bench/incremental.py --images {args.images} --rounds {args.rounds}", first=first, rounds=rounds, summary=summary)


if __name__ == "__main__":
    main()
