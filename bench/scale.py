"""Runs the whole chain on very many tiny images, and prints the time and the peak memory of each stage.

    make scale                  (or: scale.py --pomona PATH --images 1000000; scale.py --aws 50000)

The images are BMPs of 8 x 8 pixels in folders of 1,000, the model is tests/models/tiny.onnx. `--flat` puts all of them into one
folder, `--list-only` stops the run when its plan is written. With --aws, the images are in the local S3 of the tests, and the
template is deployed there: run `make lambdas` before. Fails if a stage takes more than 1 GB. With --keys, buckets of this many keys
are planned on a virtual clock (tests/large_listing.rs). The raw run goes to bench/runs/.
"""

import argparse
import json
import os
import pathlib
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import record

ROOT = pathlib.Path(__file__).parents[1]
SIZE = 8
PER_FOLDER = 1_000
LIMIT_MB = 1_000
STAGES = ["plan", "featurize", "merge", "reduce", "project", "publish", "report"]


def bmp(number):
    """An uncompressed picture of random pixels, another one for each number."""
    pixels = random.Random(number).randbytes(SIZE * SIZE * 3)
    header = b"BM" + struct.pack("<IHHI", 54 + len(pixels), 0, 0, 54)
    return header + struct.pack("<IiiHHIIiiII", 40, SIZE, SIZE, 1, 24, 0, len(pixels), 2_835, 2_835, 0, 0) + pixels


def name(number, flat=False):
    return f"{number:09}.bmp" if flat else f"label-{number // PER_FOLDER:06}/{number:09}.bmp"


def write_images(folder, count, flat, links):
    """With `links`, most of them are further names of the first ones, which take less time to make."""
    started = time.monotonic()
    for number in range(count):
        path = folder / name(number, flat)
        if number % PER_FOLDER == 0:
            path.parent.mkdir(parents=True, exist_ok=True)
        if links and number >= PER_FOLDER:
            os.link(folder / name(number % PER_FOLDER, flat), path)
        else:
            path.write_bytes(bmp(number))
    print(f"{count} images written in {time.monotonic() - started:.0f} s", flush=True)


def resident(pid):
    """Resident memory of a process, MB; 0 if it has gone."""
    try:
        return int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    except (OSError, IndexError):
        return 0


class Samples:
    """Memory of a process over time."""

    def __init__(self, process):
        self.process, self.samples = process, []

    def collect(self):
        while self.process.poll() is None:
            self.samples.append((time.time(), resident(self.process.pid)))
            time.sleep(0.01)

    def peak(self, start, end):
        return round(max((memory for at, memory in self.samples if start <= at <= end), default=0))


def windows(output, seconds):
    """When each stage ran: a stage ends when it writes its record."""
    written = lambda pattern: max((path.stat().st_mtime for path in output.glob(pattern)), default=time.time())  # noqa: E731
    plan, reduced, version = written("runs/*/plan.json"), written("runs/*/reduced.json"), written("versions/*.json")
    ends = {"plan": plan, "reduce": reduced, "publish": version}
    begins = {"featurize": plan, "merge": plan + seconds.get("featurize", 0), "project": reduced, "report": version}
    found = {}
    for stage in [stage for stage in STAGES if stage in seconds]:
        took = seconds[stage]
        found[stage] = (ends[stage] - took, ends[stage]) if stage in ends else (begins[stage], begins[stage] + took)
    return found


def until_planned(process, output):
    """Stops a run when its plan is written."""
    while process.poll() is None and not list(output.glob("runs/*/plan.json")):
        time.sleep(0.01)
    planned = time.time()
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    return planned


def run(pomona, images, output, list_only):
    command = [pomona, "run", images, output, "--model", ROOT / "tests/models/tiny.onnx", "-k", "8", "--json"]
    started = time.time()
    process = subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    samples = Samples(process)
    sampler = threading.Thread(target=samples.collect)
    sampler.start()
    planned = until_planned(process, output) if list_only else None
    text, _ = process.communicate()
    sampler.join()
    if list_only:
        return [("plan", round(planned - started, 2), samples.peak(started, planned))]
    if process.returncode != 0:
        sys.exit(f"pomona failed with {process.returncode}")
    summary = json.loads(text)
    print(f"{summary['images']} images, {summary['rejects']} rejects, {summary['shards']} shards", flush=True)
    seconds = summary["seconds_by_stage"]
    rows = [(stage, round(seconds[stage], 2), samples.peak(*span)) for stage, span in windows(output, seconds).items()]
    return rows + [("whole run", round(time.time() - started, 2), samples.peak(0, float("inf")))]


def show(rows):
    print(f"\n{'stage':<12} {'seconds':>9} {'peak MB':>8}")
    for stage, seconds, peak in rows:
        print(f"{stage:<12} {seconds:9.2f} {peak:8}")


def on_a_folder(args):
    work = pathlib.Path(tempfile.mkdtemp(prefix="pomona-scale-", dir=args.work))
    try:
        write_images(work / "images", args.images, args.flat, args.list_only)
        rows = run(args.pomona.resolve(), work / "images", work / "results", args.list_only)
        again = [] if args.list_only else run(args.pomona.resolve(), work / "images", work / "results", False)
    finally:
        shutil.rmtree(work)
    show(rows)
    if again:
        print("\nThe same again, with nothing to do:")
        show(again)
    return rows, again


class Functions:
    """The highest memory of the processes of each function, MB."""

    def __init__(self):
        self.peaks, self.stop = {}, threading.Event()

    def collect(self):
        while not self.stop.wait(0.2):
            for environ in pathlib.Path("/proc").glob("[0-9]*/environ"):
                try:
                    text = environ.read_bytes()
                    if b"AWS_LAMBDA_FUNCTION_NAME=" not in text:
                        continue
                    status = (environ.parent / "status").read_text()
                except OSError:
                    continue
                function = text.split(b"AWS_LAMBDA_FUNCTION_NAME=")[1].split(b"\0")[0].decode().split("-")[-2]
                peak = int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 1e3
                self.peaks[function] = max(self.peaks.get(function, 0), round(peak))


def on_local_aws(images):
    sys.path.insert(0, str(ROOT / "tests/aws"))
    from fault_proxy import FaultProxy
    from local_aws import LocalAws
    from test_e2e import STACK, Stack

    functions, proxy = Functions(), FaultProxy()
    with LocalAws(proxy) as aws:
        stack = Stack(aws, proxy)
        stack.deploy()
        bucket, base = stack.images.removeprefix("s3://").split("/", 1)
        put = lambda number: stack.s3.put_object(Bucket=bucket, Key=f"{base}many/{name(number)}", Body=bmp(number))  # noqa: E731
        with ThreadPoolExecutor(8) as pool:
            for _ in pool.map(put, range(images)):
                pass
        print(f"{images} images uploaded", flush=True)
        sampler = threading.Thread(target=functions.collect)
        sampler.start()
        started = time.monotonic()
        arn = stack.start(f"s3://{bucket}/{base}many/", "many", shard_size=1_024)
        execution = stack.wait(arn, seconds=6 * 3_600)
        seconds = time.monotonic() - started
        functions.stop.set()
        sampler.join()
        if execution["status"] != "SUCCEEDED":
            sys.exit(stack.explain(execution))
        found = stack.manifest("many")["images"]
        aws.sam("delete", "--stack-name", STACK, "--no-prompts")
    proxy.stop()
    if found != images:
        sys.exit(f"{found} of {images} images in the version")
    rows = [(function, 0.0, peak) for function, peak in sorted(functions.peaks.items())]
    rows.append(("execution", round(seconds, 2), max(functions.peaks.values(), default=0)))
    show(rows)
    return rows


def on_a_virtual_clock(keys):
    """Plans large buckets with one and with many listers, and keeps what the test prints."""
    command = ["cargo", "test", "--locked", "--release", "--workspace", "--test", "large_listing", "--", "--nocapture"]
    process = subprocess.Popen(command, cwd=ROOT, env=os.environ | {"POMONA_KEYS": keys}, stdout=subprocess.PIPE, text=True)
    plans = []
    for line in process.stdout:
        print(line, end="", flush=True)
        if found := re.match(r"(?:test .*)?(\w+), (\d+) keys, (.*): ([\d.]+) s, (\d+) requests, at most (\d+) MB", line):
            shape, count, how, seconds, requests, peak = found.groups()
            plans.append({"shape": shape, "keys": int(count), "how": how, "simulated_seconds": float(seconds),
                          "requests": int(requests), "peak_mb": int(peak)})
    if process.wait() != 0:
        sys.exit("the test failed")
    record.write("scale-keys", plans=plans)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pomona", type=pathlib.Path, default=ROOT / "target/release/pomona")
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--flat", action="store_true", help="all images in one folder")
    parser.add_argument("--list-only", action="store_true", help="only the stage plan")
    parser.add_argument("--work", type=pathlib.Path, help="folder for the images and the results; they are deleted afterwards")
    parser.add_argument("--aws", type=int, metavar="IMAGES", help="on the local AWS, with this number of images")
    parser.add_argument("--keys", metavar="N,N", help="plan buckets of this many keys on a virtual clock")
    args = parser.parse_args()
    if args.keys:
        return on_a_virtual_clock(args.keys)
    rows, again = (on_local_aws(args.aws), []) if args.aws else on_a_folder(args)
    record.write("scale-aws" if args.aws else "scale", images=args.aws or args.images,
                 stages=[dict(zip(("stage", "seconds", "peak_mb"), row)) for row in rows],
                 again=[dict(zip(("stage", "seconds", "peak_mb"), row)) for row in again])
    if high := [stage for stage, _, peak in rows + again if peak > LIMIT_MB]:
        sys.exit(f"more than {LIMIT_MB} MB: {', '.join(high)}")


if __name__ == "__main__":
    main()
