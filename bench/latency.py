"""Throughput of one processor when each image comes with a delay, as from S3.

    make bench-latency              (or: latency.py --pomona target/release/pomona --images 2240 --delays 0 30 100)

The same images are read from a folder, which gives the bound of the processor, and from a local S3 behind a proxy that answers each
request for an image after a delay. The program has one thread and is pinned to one processor; S3 and the proxy have the others. What
counts is the stage featurize. Raw runs go to bench/runs/.
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

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests/aws"))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pomona", type=pathlib.Path, required=True)
    parser.add_argument("--images", type=int, default=2_240)
    parser.add_argument("--delays", type=int, nargs="*", default=[0, 30, 100], help="milliseconds")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    from fault_proxy import FaultProxy
    from local_aws import LocalAws

    processors = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, processors[:-1] or processors)
    proxy = FaultProxy()
    with LocalAws(proxy=proxy) as aws, tempfile.TemporaryDirectory() as folder:
        aws.client("s3").create_bucket(Bucket="images")
        aws.pomona("demo", folder, "--images-only", "--views", max(3, args.images // 14))
        images = pathlib.Path(folder, "images")
        for image in images.rglob("*.jpg"):
            aws.client("s3").upload_file(str(image), "images", str(image.relative_to(images)))
        delay = 0.0

        def wait(method, path):
            if method == "GET" and path.split("?")[0].endswith(".jpg"):
                time.sleep(delay)

        proxy.rule = wait
        environment = aws.environment() | {"AWS_ENDPOINT_URL": proxy.endpoint}

        def rate(source, number):
            """Images per second of the stage featurize."""
            command = ["taskset", "-c", str(processors[-1]), args.pomona.resolve(), "run", source, f"{folder}/{number}",
                       "--threads", "1", "--json"]
            done = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True)
            if done.returncode != 0:
                sys.exit(done.stderr)
            run = json.loads(done.stdout)
            return run["images"] / run["seconds_by_stage"]["featurize"]

        rounds = []
        for number in range(args.rounds):
            row = {"folder": rate(images, f"{number}-folder")}
            for milliseconds in args.delays:
                delay = milliseconds / 1e3
                row[f"{milliseconds} ms"] = rate("s3://images/", f"{number}-{milliseconds}")
            rounds.append({name: round(value, 1) for name, value in row.items()})
            print(f"round {number + 1}: {rounds[-1]} images/s", flush=True)
    summary = {name: {"images_per_second": statistics.median(r[name] for r in rounds),
                      "share_of_folder": round(statistics.median(r[name] / r["folder"] for r in rounds), 3)} for name in rounds[0]}
    for name, row in summary.items():
        print(f"{name:8} {row}")
    record.write("latency", images=args.images, rounds=rounds, summary=summary)


if __name__ == "__main__":
    main()
