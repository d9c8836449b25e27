"""Measures a run for one new image in a data set of 10,000, compared with the first run.

    make bench-incremental          (or: incremental.py --pomona PATH --images 10000 --rounds 5)

Each round adds one picture and runs again, with a new fit and, on a copy of the output, without one. The program's summary must say that it inferred exactly one image. With
--before, an earlier build of the program runs in turn with it, on an output of its own. Raw runs go to bench/runs/.
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
    parser.add_argument("--before", type=pathlib.Path, help="an earlier build of the program, run in the same rounds")
    args = parser.parse_args()
    programs = {"this": args.pomona.resolve()} | ({"before": args.before.resolve()} if args.before else {})
    with tempfile.TemporaryDirectory() as work:
        work = pathlib.Path(work)
        images = write_images(programs["this"], work / "data", args.images + args.rounds)
        # Some pictures are moved away first and added one by one.
        later = sorted(images.rglob("*.jpg"))[:: args.images // args.rounds][: args.rounds]
        (work / "later").mkdir()
        held = [(path, shutil.move(path, work / "later" / f"{i}.jpg")) for i, path in enumerate(later)]
        first = {name: run(program, images, work / name) for name, program in programs.items()}
        for name, row in first.items():
            print(f"first run, {name}: {row['seconds']:.1f} s, {row['inferred']} images inferred", flush=True)
        kinds = {"refit": [], "kept": ["--refit", "never"]}
        for name in programs:
            # An output for each kind: a run that keeps the fit leaves work to the next one that does not.
            shutil.copytree(work / name, work / f"{name}-kept")
            (work / name).rename(work / f"{name}-refit")
        rounds = {name: {kind: [] for kind in kinds} for name in programs}
        for i, (path, source) in enumerate(held):
            shutil.move(source, path)
            for kind, options in kinds.items():
                # In turn, so that neither is always the second.
                for name in sorted(programs, reverse=i % 2 == 1):
                    row = run(programs[name], images, work / f"{name}-{kind}", *options)
                    assert row["inferred"] == row["added"] == 1, row
                    rounds[name][kind].append(row)
                    print(f"one more ({kind}), {name}: {row['seconds']:.2f} s {row['seconds_by_stage']}", flush=True)
    summary = {}
    for kind in kinds:
        seconds = {name: statistics.median(r["seconds"] for r in rows[kind]) for name, rows in rounds.items()}
        summary[kind] = {"seconds": seconds["this"], "times_faster": round(first["this"]["seconds"] / seconds["this"], 1)}
        print(f"{kind}: {seconds['this']:.2f} s, {summary[kind]['times_faster']:.0f} times faster than the first run")
        if args.before:
            pairs = zip(rounds["this"][kind], rounds["before"][kind])
            ratio = statistics.median(now["seconds"] / then["seconds"] for now, then in pairs)
            summary[kind] |= {"seconds_before": seconds["before"], "ratio": round(ratio, 3)}
            print(f"{kind}: {ratio:.2f} times the seconds of the earlier build, {seconds['before']:.2f} s")
    fields = {"first": first["this"], "rounds": rounds["this"], "summary": summary}
    if args.before:
        fields["before"] = {"first": first["before"], "rounds": rounds["before"]}
    name = "incremental-before-after" if args.before else "incremental"
    record.write(name, **fields)


if __name__ == "__main__":
    main()
