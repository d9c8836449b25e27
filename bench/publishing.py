"""Measures the memory of a run that publishes a version of a million rows, and of the next one with ten more images.

    make bench-publishing           (or: publishing.py --example PATH --rows 100000 1000000)

No images are needed: examples/publish_rows.rs generates the features of all shards, about 5 GB for a million rows, and then
runs the pipeline, which finds them finished. Peak memory is that of the process that runs it (VmHWM), with one heap as in
the program. Fails if a run takes 500 MB or more. Raw runs go to bench/runs/.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import record

NEW = 10
LIMIT_MB = 500


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--example", type=pathlib.Path, required=True)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    args = parser.parse_args()
    # As src/cli/main.rs.
    env = {**os.environ, "MALLOC_ARENA_MAX": "1"}
    runs = []
    for rows in args.rows:
        with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as output:
            call = lambda *what: subprocess.run(  # noqa: E731
                [args.example.resolve(), *map(str, what)], env=env, capture_output=True, text=True, check=True).stdout
            call("prepare", output, rows)
            for kind, more in (("first", []), ("ten more", [NEW])):
                run = {"rows": rows, "kind": kind, **json.loads(call("run", output, rows, *more))}
                assert run["images"] == rows + sum(more) and run["inferred"] == sum(more), run
                runs.append(run)
                print(f"{rows:9,} rows, {kind}: {run['seconds']:7.1f} s, peak {run['peak_mb']} MB", flush=True)
    record.write("publishing", runs=runs)
    if high := [f"{run['rows']:,} rows, {run['kind']}" for run in runs if run["peak_mb"] >= LIMIT_MB]:
        sys.exit(f"{LIMIT_MB} MB or more: {'; '.join(high)}")


if __name__ == "__main__":
    main()
