"""`make smoke-aws STACK=...`: tests a deployed stack on a real account, with the caller's credentials, region and program.

It uploads generated pictures below a prefix of its own and checks: a run, increments, broken uploads, a redrive, a vacuum. It
prints what it is expected to cost before it starts, and what its runs have cost at the end. It deletes what it made, also when a
check fails.

The credentials need: reading the stack's outputs; listing, reading, writing and deleting objects and their versions in both
buckets; what `pomona start` and `pomona status` need (docs/operations.md); states:StopExecution and states:RedriveExecution.
"""

import argparse
import concurrent.futures
import datetime
import json
import math
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import boto3

POMONA = os.environ.get("POMONA", pathlib.Path(__file__).parents[2] / "target/release/pomona")
VARIETIES = 14
# The share of images that an increment deletes, replaces and adds (each), and that is broken.
SHARE = 0.01
PUTS = {"price": 0.005, "per": 1000}  # as prices/aws.json; uploads and deletions markers are no part of a receipt


class Failed(Exception):
    """A check has failed."""


def say(text):
    print(f"{datetime.datetime.now():%H:%M:%S} {text}", flush=True)


def check(condition, text):
    if not condition:
        raise Failed(text)


def split(location):
    bucket, _, prefix = location.removeprefix("s3://").partition("/")
    return bucket, prefix


class Smoke:
    def __init__(self, stack, images, shard_size):
        self.stack, self.count, self.shard_size = stack, images, shard_size
        self.s3, self.sfn = boto3.client("s3"), boto3.client("stepfunctions")
        outputs = boto3.client("cloudformation").describe_stacks(StackName=stack)["Stacks"][0]["Outputs"]
        outputs = {output["OutputKey"]: output["OutputValue"] for output in outputs}
        name = f"smoke-{datetime.datetime.now(datetime.UTC):%Y%m%d%H%M%S}/"
        self.input, self.output, self.redriven = outputs["Images"] + name, outputs["Results"] + name, f"{outputs['Results']}redriven-{name}"
        self.dollars = 0.0

    def pomona(self, *args):
        done = subprocess.run([POMONA, *map(str, args)], capture_output=True, text=True)
        check(done.returncode == 0, f"pomona {' '.join(map(str, args))} failed:\n{done.stdout}{done.stderr}")
        return done.stdout

    def estimate(self):
        """Dollars for all runs, and a line per part."""
        changed = 3 * max(1, int(self.count * SHARE)) + max(1, int(self.count * SHARE))
        region = self.s3.meta.region_name
        cost = lambda images: json.loads(self.pomona("estimate", "--images", images, "--region", region, "--json"))["dollars"]["total"]  # noqa: E731
        parts = {
            f"the first run, {self.count:,} images": cost(self.count),
            f"two increments, {changed:,} images": 2 * cost(changed) + cost(self.count) / 2,
            "the same images again in another output, stopped and redriven": 1.5 * cost(self.count),
            "uploads": (self.count + changed) * PUTS["price"] / PUTS["per"],
        }
        for part, dollars in parts.items():
            print(f"  {part:64} ${dollars:8.3f}")
        print(f"  {'together, without logs and alarms':64} ${sum(parts.values()):8.3f}")

    # Objects

    def pictures(self, folder):
        say(f"rendering {self.count:,} pictures")
        extra = max(1, int(self.count * SHARE)) * 2
        self.pomona("demo", folder, "--images-only", "--views", math.ceil((self.count + extra) / VARIETIES))
        files = sorted(pathlib.Path(folder, "images").rglob("*.jpg"), key=lambda path: path.name)
        check(len(files) >= self.count + extra, f"only {len(files)} pictures")
        return files

    def key(self, path):
        return split(self.input)[1] + f"{path.parent.name}/{path.name}"

    def upload(self, bodies):
        """Uploads (key, bytes) with 32 connections."""
        bucket = split(self.input)[0]
        with concurrent.futures.ThreadPoolExecutor(32) as pool:
            list(pool.map(lambda pair: self.s3.put_object(Bucket=bucket, Key=pair[0], Body=pair[1]), bodies))

    def read(self, output, key):
        bucket, prefix = split(output)
        return self.s3.get_object(Bucket=bucket, Key=prefix + key)["Body"].read()

    def manifest(self, output):
        bucket, prefix = split(output)
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{prefix}versions/")
        records = [json.loads(self.read(output, o["Key"].removeprefix(prefix))) for page in pages for o in page.get("Contents", [])
                   if o["Key"].endswith(".json")]
        return [record for record in records if record["state"] == "published"][-1]

    # Executions

    def run(self, **expected):
        """Runs the pipeline and checks its output; returns the version's line in the log."""
        status = json.loads(self.pomona("start", self.stack, self.input, self.output, "--shard-size", self.shard_size, "--follow", "--json"))
        check(status["status"] == "SUCCEEDED", f"the execution has failed: {json.dumps(status)}")
        output = status["output"]
        self.dollars += json.loads(self.read(self.output, output["receipt"]))["dollars"]["total"]
        line = json.loads(self.pomona("log", self.output, "--json"))
        newest = max(line, key=lambda version: version["version"])
        for name, value in expected.items():
            check(newest[name] == value, f"{name} of version {newest['version']} is {newest[name]}, not {value}")
        say(f"version {newest['version']}: {newest['images']:,} images, {newest['inferred']:,} computed, {newest['rejects']:,} rejected, "
            f"{newest['seconds']:.0f} s")
        return newest

    def redrive(self):
        """Stops an execution while shards are computed, and redrives it: the result is that of an undisturbed run."""
        arn = json.loads(self.pomona("start", self.stack, self.input, self.redriven, "--shard-size", self.shard_size, "--json"))["execution"]
        while not self.sfn.list_map_runs(executionArn=arn)["mapRuns"]:
            check(self.sfn.describe_execution(executionArn=arn)["status"] == "RUNNING", "the execution ended before its first map")
            time.sleep(0.5)
        self.sfn.stop_execution(executionArn=arn, cause="smoke test")
        # Its children end first.
        time.sleep(2)
        self.sfn.redrive_execution(executionArn=arn)
        while (execution := self.sfn.describe_execution(executionArn=arn))["status"] == "RUNNING":
            time.sleep(1)
        check(execution["status"] == "SUCCEEDED" and execution.get("redriveCount") == 1,
              f"the redriven execution has failed: {execution.get('error')}: {execution.get('cause')}")
        output = json.loads(execution["output"])
        self.dollars += json.loads(self.read(self.redriven, output["receipt"]))["dollars"]["total"]
        self.same(self.output, self.redriven)
        say("stopped, redriven, and the same bytes")

    def same(self, one, other):
        """Compares basis and sums of two outputs, byte for byte."""
        manifests = [self.manifest(output) for output in (one, other)]
        for part in ("basis", "moments"):
            bytes_of = [self.read(output, manifest[part]["key"]) for output, manifest in zip((one, other), manifests, strict=True)]
            check(bytes_of[0] == bytes_of[1], f"{part} of {one} and {other} differ")

    def all(self, folder):
        few = max(1, int(self.count * SHARE))
        files = self.pictures(folder)
        first, more, others = files[:self.count], files[self.count: self.count + few], files[self.count + few: self.count + 2 * few]
        self.upload((self.key(path), path.read_bytes()) for path in first)
        say(f"uploaded {self.count:,} pictures")
        self.run(images=self.count, inferred=self.count, rejects=0, added=self.count)

        gone, replaced = first[:few], first[few: 2 * few]
        for path in gone:
            self.s3.delete_object(Bucket=split(self.input)[0], Key=self.key(path))
        self.upload((self.key(path), path.read_bytes()) for path in more)
        self.upload((self.key(path), other.read_bytes()) for path, other in zip(replaced, others, strict=True))
        self.run(images=self.count, inferred=2 * few, added=few, removed=few, changed=few, rejects=0)

        broken = [b"", b"no image", first[-1].read_bytes()[:500]]
        self.upload((split(self.input)[1] + f"broken/{i}.jpg", broken[i % 3]) for i in range(few))
        newest = self.run(images=self.count, rejects=few, inferred=0)
        check(newest["version"] == 3, "there are not three versions")

        self.redrive()

        removed = json.loads(self.pomona("vacuum", self.output, "--keep-versions", 1, "--older-than", 0, "--json"))
        check(removed["kept"] == [3] and removed["objects"] > 0, f"the vacuum kept {removed['kept']}")
        checked = json.loads(self.pomona("check", self.output, "--fast", "--json"))
        check(not checked["problems"] and checked["versions"] == [3], f"damaged after the vacuum: {checked['problems']}")
        say(f"vacuumed {removed['objects']:,} objects; {checked['files']:,} files are sound")

    def clean(self):
        """Deletes everything below the prefixes of this test, with all object versions."""
        for location in (self.input, self.output, self.redriven):
            bucket, prefix = split(location)
            for page in self.s3.get_paginator("list_object_versions").paginate(Bucket=bucket, Prefix=prefix):
                objects = [{"Key": o["Key"], "VersionId": o["VersionId"]} for kind in ("Versions", "DeleteMarkers") for o in page.get(kind, [])]
                if objects:
                    self.s3.delete_objects(Bucket=bucket, Delete={"Objects": objects, "Quiet": True})
        say("deleted all that this test made")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stack")
    parser.add_argument("--images", type=int, default=22_688)
    parser.add_argument("--shard-size", type=int, default=256)
    parser.add_argument("--yes", action="store_true", help="do not ask before it starts")
    parser.add_argument("--keep", action="store_true", help="leave images and results")
    args = parser.parse_args()
    smoke = Smoke(args.stack, args.images, args.shard_size)
    print(f"{smoke.input} -> {smoke.output}, in {smoke.s3.meta.region_name}. Expected:")
    smoke.estimate()
    if not args.yes and input("Start? [y/N] ").strip().lower() not in ("y", "yes"):
        sys.exit("nothing was done")
    try:
        with tempfile.TemporaryDirectory() as folder:
            smoke.all(folder)
        print(f"All checks passed. The receipts of the runs: ${smoke.dollars:.3f}")
    except Failed as failure:
        sys.exit(f"FAILED: {failure}")
    finally:
        if not args.keep:
            smoke.clean()


if __name__ == "__main__":
    main()
