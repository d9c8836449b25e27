"""End-to-end tests on a strict local AWS: `sam build`, `sam deploy` of the unchanged template, uploads, executions, faults.

The functions run in their own processes, at most ten at a time, as in a new account. They reach AWS through a proxy that decides
on their permissions and injects faults (strict_proxy.py). A request that is refused fails the test, also if the code copes.
"""

import collections
import contextlib
import csv
import hashlib
import io
import json
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
import urllib.parse
import zlib
from concurrent.futures import ThreadPoolExecutor

import pandas as pd
import pyarrow.fs
import pyarrow.parquet as pq
import pytest
from build import machine_of
from function_url import FunctionUrl, put
from iam import ACCOUNT
from local_aws import ARCHITECTURE, POMONA, REGION, ROOT, LocalAws
from strict_proxy import StrictProxy

STACK = "pomona-e2e"
# Has inventories of the images, and files of labels.
INVENTORIES = "pomona-inventories"
# With shards of about 40 images, a few hundred images make a map with several items.
SHARD_SIZE = 40
# What a new account may run at the same time ("Lambda quotas").
CONCURRENCY = 10
# How often the run of 23 shards is repeated; `make e2e-new-account` sets it.
RUNS = int(os.environ.get("POMONA_RUNS", "1"))
# Permits everything, as a plain local AWS does: to see whether a failure is one of permissions.
LENIENT = os.environ.get("POMONA_AWS") == "lenient"


class Stack:
    """A deployed stack, its buckets and its state machine."""

    def __init__(self, aws, proxy):
        self.aws, self.proxy = aws, proxy
        self.s3, self.sfn = aws.client("s3"), aws.client("stepfunctions")
        self.packaged = None

    def deploy(self, template=None, **parameters):
        """Deploys what `sam build` made; its packages are zipped and uploaded the first time only."""
        if template is None and self.packaged is None:
            self.packaged = ROOT / ".aws-sam/packaged.yaml"
            self.aws.sam("package", "--resolve-s3", "--output-template-file", self.packaged)
        overrides = [f"{name}={value}" for name, value in parameters.items()]
        self.aws.sam("deploy", "--template-file", template or self.packaged, "--stack-name", STACK, "--resolve-s3", "--no-confirm-changeset", "--no-progressbar",
                     "--no-fail-on-empty-changeset", "--capabilities", "CAPABILITY_IAM", "CAPABILITY_AUTO_EXPAND",
                     *(["--parameter-overrides", *overrides] if overrides else []))
        outputs = self.aws.client("cloudformation").describe_stacks(StackName=STACK)["Stacks"][0]["Outputs"]
        outputs = {o["OutputKey"]: o["OutputValue"] for o in outputs}
        self.images, self.results, self.arn = outputs["Images"], outputs["Results"], outputs["Pipeline"]
        self.queue, self.dead_letters = outputs["UploadQueue"], outputs["UploadDeadLetters"]
        self.query = FunctionUrl(self.aws, outputs["QueryUrl"]) if "QueryUrl" in outputs else None
        # bench/scale.py has a proxy that permits everything.
        if hasattr(self.proxy, "learn"):
            self.proxy.learn(self.aws)

    def function(self, name):
        """The deployed name of a function of the template."""
        return next(f["FunctionName"] for f in self.aws.client("lambda").list_functions()["Functions"] if f"-{name}Function" in f["FunctionName"])

    def call_sample(self, name, event, places):
        """Calls a function with the event in its folder, as `cargo lambda invoke --data-file` does, but with these places."""
        body = (ROOT / f"functions/{name}/events/{event}.json").read_text()
        for sample, place in places.items():
            body = body.replace(sample, place)
        answer = self.aws.client("lambda").invoke(FunctionName=self.function(name.title()), Payload=body)
        payload = json.loads(answer["Payload"].read())
        assert "FunctionError" not in answer, f"{name}: {payload}"
        return payload

    def upload(self, folder, prefix):
        """Uploads the files of a folder below images/<prefix>/; returns the location."""
        bucket, base = self.images.removeprefix("s3://").split("/", 1)
        for path in sorted(pathlib.Path(folder).rglob("*")):
            if path.is_file():
                self.s3.put_object(Bucket=bucket, Key=f"{base}{prefix}/{path.relative_to(folder)}", Body=path.read_bytes())
        return f"s3://{bucket}/{base}{prefix}/"

    def start(self, source, output, **settings):
        request = {"input": source, "output": f"{self.results}{output}/", "shard_size": SHARD_SIZE, **settings}
        return self.sfn.start_execution(stateMachineArn=self.arn, input=json.dumps(request))["executionArn"]

    def wait(self, arn, seconds=240):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            execution = self.sfn.describe_execution(executionArn=arn)
            if execution["status"] != "RUNNING":
                return execution
            time.sleep(0.3)
        raise AssertionError(f"still running after {seconds} s: {self.history(arn)}")

    def history(self, arn):
        events = self.sfn.get_execution_history(executionArn=arn, reverseOrder=True, maxResults=6)["events"]
        return json.dumps(events, default=str)[:3000]

    def entered(self, arn):
        events = self.sfn.get_execution_history(executionArn=arn, maxResults=1000)["events"]
        return [event["stateEnteredEventDetails"]["name"] for event in events if "stateEnteredEventDetails" in event]

    def run(self, source, output, **settings):
        execution = self.wait(self.start(source, output, **settings))
        assert execution["status"] == "SUCCEEDED", self.explain(execution)
        return json.loads(execution["output"])

    def explain(self, execution):
        arn = execution["executionArn"]
        failures = "\n".join(f"{error}: {cause}" for error, cause in failures_of_children(self, arn))
        return f"{execution['status']} {execution.get('error')}: {execution.get('cause')}\n{failures[-3000:]}\n{self.history(arn)}"

    def keys(self, output):
        bucket, prefix = self.results.removeprefix("s3://").split("/", 1)
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{prefix}{output}/")
        return {o["Key"].removeprefix(f"{prefix}{output}/"): o["ETag"] for page in pages for o in page.get("Contents", [])}

    def read(self, output, key):
        bucket, prefix = self.results.removeprefix("s3://").split("/", 1)
        return self.s3.get_object(Bucket=bucket, Key=f"{prefix}{output}/{key}")["Body"].read()

    def manifest(self, output):
        published = [k for k in self.keys(output) if k.startswith("versions/") and k.endswith(".json")]
        records = [json.loads(self.read(output, key)) for key in sorted(published)]
        return [record for record in records if record["state"] == "published"][-1]

    def functions(self, name):
        """Ids of the processes that serve a function."""
        found = []
        for environ in pathlib.Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                if b"AWS_LAMBDA_FUNCTION_NAME=" in (text := environ.read_bytes()) and f"-{name}Function".encode() in text:
                    found.append(int(environ.parent.name))
        return found


@pytest.fixture(scope="module")
def stack():
    assert (ROOT / ".aws-sam/build/template.yaml").exists(), "the functions are not built: run `make lambdas`"
    proxy = StrictProxy(lenient=LENIENT)
    with LocalAws(proxy, CONCURRENCY) as aws:
        stack = Stack(aws, proxy)
        aws.client("s3").create_bucket(Bucket=INVENTORIES)
        stack.deploy(InventoryBucketName=INVENTORIES, Query="iam", QueryOutput="query/")
        yield stack
        aws.sam("delete", "--stack-name", STACK, "--no-prompts")
    proxy.stop()


@pytest.fixture(autouse=True)
def no_faults(stack):
    proxy = stack.proxy
    proxy.faults = 0
    proxy.refused.clear()
    yield
    proxy.rule = lambda method, path: None
    proxy.conflicts, proxy.deadline, proxy.copies = 0.0, lambda function: None, lambda: 1
    assert LENIENT or not proxy.refused, f"roles do not allow what was tried: {proxy.refused}"


@pytest.fixture(scope="module")
def demo(stack, tmp_path_factory):
    """The images of the demo in a folder and in the bucket, and the results of a run on the folder."""
    folder = tmp_path_factory.mktemp("demo")
    stack.aws.pomona("demo", folder, "--images-only", "--views", 12)
    stack.aws.pomona("run", folder / "images", folder / "results", "--shard-size", SHARD_SIZE, "--csv")
    return folder, stack.upload(folder / "images", "demo")


def shards_of(manifest, read):
    """The shards of a version, from the records of its groups."""
    return [shard for group in manifest["groups"] for shard in json.loads(read(f"groups/{group['id']}/group.json"))["shards"]]


def parts_of(manifest, read):
    """Keys of the scores and predictions of a version, from the lists of their parts."""
    lists = [json.loads(read(scores["key"])) for scores in manifest["outputs"]["scores"]]
    parts = [part for each in lists for part in each["parts"]]
    return [file["key"] for part in parts for file in [*part["scores"], *filter(None, [part.get("predictions")])]]


def sums_of(manifest, read):
    """The sums of all groups, added: they do not depend on where a group ends."""
    keys = [f"groups/{group['id']}/sums.parquet" for group in manifest["groups"] if group["rows"]]
    return sum(pd.read_parquet(io.BytesIO(read(key)))["sum"].to_numpy() for key in keys)


def tables_of(manifest, read):
    """A digest of features, sums, basis, classifier, scores and predictions, without etags and times."""
    digest = hashlib.sha256()
    for shard in shards_of(manifest, read):
        if shard["rows"]:
            frame = pd.read_parquet(io.BytesIO(read(f"shards/{shard['id']}/features.parquet")))
            rows = [(row.path, row.label, row.length, row.content_sha256, row.features.tobytes(), row.thumbnail.tobytes(),
                     [tuple(keypoint.values()) for keypoint in getattr(row, "keypoints", [])])
                    for row in frame.itertuples()]
            digest.update(repr(rows).encode())
    digest.update(sums_of(manifest, read).tobytes())
    digest.update(read(manifest["basis"]["key"]))
    if manifest["classifier"]["state"] == "fitted":
        digest.update(read(manifest["classifier"]["key"]))
    for part in parts_of(manifest, read):
        digest.update(read(part))
    if manifest["outputs"]["csv"]:
        digest.update(read(manifest["outputs"]["csv"]["key"]))
    return digest.hexdigest()


def without_checksums(work):
    """A line of a work list as in a sample event: what depends on the time of the upload is left out."""
    if isinstance(work, dict):
        return {name: without_checksums(value) for name, value in work.items() if name not in ("sha256", "bytes")}
    return work


def test_packages_are_small_enough_for_lambda(stack):
    """"Lambda quotas": 50 MB zipped. `make lambdas` has a limit of its own for the packages that users deploy."""
    for bootstrap in (ROOT / ".aws-sam/build").glob("*/bootstrap"):
        size = len(zlib.compress(bootstrap.read_bytes(), 1))
        assert size < 50_000_000, f"{bootstrap.parent.name}: {size} bytes"


@pytest.fixture
def wrong_build():
    """A folder beside that of the build, because the paths in a template are relative."""
    folder = ROOT / ".aws-sam/wrong"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


def test_a_package_for_another_processor_fails_the_deployment(stack, wrong_build):
    """The stack goes back to the program that it had, which the next tests call."""
    (built,) = (ROOT / ".aws-sam/build").glob("*/bootstrap")
    with open(built, "rb") as file:
        program = bytearray(file.read(4096))
    assert machine_of(program) == ARCHITECTURE
    # The field e_machine of the ELF header: IBM S/390, which is neither of Lambda's processors.
    program[18:20] = (22).to_bytes(2, "little")
    wrong = wrong_build / built.parent.name / "bootstrap"
    wrong.parent.mkdir()
    wrong.write_bytes(program)
    wrong.chmod(0o755)
    template = (ROOT / ".aws-sam/build/template.yaml").read_text()
    assert template.count("ServiceTimeout: 300") == 1
    (wrong_build / "template.yaml").write_text(template.replace("ServiceTimeout: 300", "ServiceTimeout: 3"))
    lambdas = stack.aws.client("lambda")
    function = stack.function("Plan")
    before = lambdas.get_function(FunctionName=function)["Configuration"]["CodeSha256"]
    with pytest.raises(RuntimeError, match="sam deploy failed"):
        stack.deploy(wrong_build / "template.yaml")
    stacks = stack.aws.client("cloudformation")
    events = stacks.describe_stack_events(StackName=STACK)["StackEvents"]
    (reason,) = [e["ResourceStatusReason"] for e in events if e["LogicalResourceId"] == "ProgramStarts" and e["ResourceStatus"].endswith("_FAILED")]
    assert "timed out" in reason, reason
    assert stacks.describe_stacks(StackName=STACK)["Stacks"][0]["StackStatus"] == "UPDATE_ROLLBACK_COMPLETE"
    assert lambdas.get_function(FunctionName=function)["Configuration"]["CodeSha256"] == before


def test_the_sample_events_are_a_run_by_hand(stack, tmp_path):
    """Calls each function with its sample event, but with the stack's buckets and the output of uploads, which is the one that the
    vacuum's role is for."""
    images, results = (place.removeprefix("s3://").split("/")[0] for place in (stack.images, stack.results))
    output = f"{stack.results}uploads/"
    stack.aws.pomona("demo", tmp_path, "--images-only", "--views", 4)
    keys = {f"images/{path.relative_to(tmp_path / 'images')}": path for path in (tmp_path / "images").rglob("*.jpg")}
    for key, path in keys.items():
        stack.s3.put_object(Bucket=images, Key=key, Body=path.read_bytes())
    places = {"s3://pomona-images/": f"s3://{images}/", "s3://pomona-results/pomona/first/": output}

    def call(name, event):
        return stack.call_sample(name, event, places)

    def check_sample(event, work_list):
        """Compares an event with the only line of a work list."""
        line = stack.s3.get_object(Bucket=results, Key=f"pomona/uploads/runs/sample/{work_list}")["Body"].read()
        sample = json.loads((ROOT / f"functions/{event}.json").read_text())["work"]
        assert sample == without_checksums(json.loads(line)), f"{event}.json is not the planned work"

    planned = call("plan", "first")
    assert (planned["objects"], planned["shards"], planned["groups"]) == (56, 1, 1)
    check_sample("featurize/events/shard", "featurize.jsonl")
    assert call("featurize", "shard")["rows"] == 56
    check_sample("reduce/events/group", "merge.jsonl")
    assert call("reduce", "group")["entry"]["rows"] == 56
    assert call("reduce", "run")["parts_to_project"] == 1
    check_sample("project/events/part", "project.jsonl")
    call("project", "part")
    assert call("publish", "run")["version"] == 1
    # Nothing is new, also for a notice of an upload.
    stack.s3.put_object(Bucket=results, Key="pomona/uploads/inbox/0.json", Body=json.dumps([next(iter(keys)).removeprefix("images/")]))
    assert call("plan", "first")["up_to_date"] is True
    assert "inbox/0.json" not in stack.keys("uploads")
    assert call("vacuum", "weekly")["kept"] == [1]
    shown = stack.aws.pomona("show", output).stdout
    assert "56" in shown
    for key in keys:
        stack.s3.delete_object(Bucket=images, Key=key)
    for key in stack.keys("uploads"):
        stack.s3.delete_object(Bucket=results, Key=f"pomona/uploads/{key}")


def test_a_run_on_aws_gives_the_bits_of_a_run_on_a_folder(stack, demo):
    folder, source = demo
    arn = stack.start(source, "same", csv=True)
    most = 0
    while stack.sfn.describe_execution(executionArn=arn)["status"] == "RUNNING":
        most = max(most, len(stack.functions("Featurize")))
        time.sleep(0.05)
    execution = stack.wait(arn)
    assert execution["status"] == "SUCCEEDED", stack.explain(execution)
    output = json.loads(execution["output"])
    assert (output["images"], output["rejects"], output["version"], output["components"]) == (168, 0, 1, 50)
    assert most >= 2, f"{most} featurize processes at most"
    manifest = stack.manifest("same")
    local = json.loads((folder / "results/versions/00000001.json").read_text())
    of_folder, of_bucket = lambda key: (folder / "results" / key).read_bytes(), lambda key: stack.read("same", key)
    assert tables_of(manifest, of_bucket) == tables_of(local, of_folder)
    # The only group of each has the total sums, byte for byte.
    assert of_bucket(manifest["moments"]["key"]) == of_folder(local["moments"]["key"])
    assert "pca/v=00000001/_SUCCESS" in stack.keys("same")

    again = stack.wait(stack.start(source, "same", csv=True))
    assert again["status"] == "SUCCEEDED" and json.loads(again["output"])["up_to_date"] is True
    assert stack.manifest("same")["version"] == 1


@pytest.mark.parametrize("name", ["raw", "orb"])
def test_an_extractor_without_a_network_gives_the_bits_of_a_folder(stack, demo, tmp_path, name):
    folder, source = demo
    results = tmp_path / "results"
    settings = {"pca": {"components": 5}, "shard_size": 64}
    if name == "orb":
        asked, options = {"name": name, "keypoints": True}, ["--keep-keypoints"]
    else:
        # A classifier of 3,072 columns takes longer than everything else here.
        asked, options = {"name": name}, ["--no-classifier"]
        settings["classifier"] = False
    stack.aws.pomona("run", folder / "images", results, "--extractor", name, *options, "-k", 5, "--shard-size", 64)
    execution = stack.wait(stack.start(source, name, extractor=asked, **settings))
    assert execution["status"] == "SUCCEEDED", stack.explain(execution)
    manifest, local = stack.manifest(name), json.loads((results / "versions/00000001.json").read_text())
    assert manifest["extractor"] == local["extractor"] and manifest["extractor"]["kind"] == name
    assert tables_of(manifest, lambda key: stack.read(name, key)) == tables_of(local, lambda key: (results / key).read_bytes())
    # The next run takes the extractor of the last one, and its words from the output.
    again = stack.wait(stack.start(source, name, **settings))
    assert again["status"] == "SUCCEEDED" and json.loads(again["output"])["up_to_date"] is True
    if name == "orb":
        words = next(key for key in stack.keys(name) if key.startswith("vocabularies/"))
        given = {"name": "orb", "vocabulary": f"{stack.results}orb/{words}"}
        # Rounds of listings count the same words, which are made once.
        execution = stack.wait(stack.start(source, "orb-listed", extractor=asked, objects_per_lister=100, **settings))
        assert execution["status"] == "SUCCEEDED", stack.explain(execution)
        entered = stack.entered(execution["executionArn"])
        assert entered.count("Vocabulary") == 1 and entered.count("Plan") > 1, entered
        assert stack.manifest("orb-listed")["extractor"] == local["extractor"]
        execution = stack.wait(stack.start(source, "orb-given", extractor=given, **settings))
        assert execution["status"] == "SUCCEEDED", stack.explain(execution)
        assert stack.manifest("orb-given")["extractor"] == local["extractor"]
        # Words that are none fail before any shard is paid for.
        given["vocabulary"] = f"{stack.results}orb/pomona.json"
        refused = stack.wait(stack.start(source, "orb-wrong", extractor=given))
        assert refused["status"] == "FAILED" and refused["error"] == "Model.Invalid", refused
        assert not any(key.startswith("shards/") for key in stack.keys("orb-wrong"))


@pytest.mark.parametrize("name", ["tiny.onnx", "networks/vit-tiny"])
def test_a_model_of_the_users_gives_the_bits_of_a_folder(stack, demo, tmp_path, name):
    """One on the kernels, and one on tract with its own preprocessing."""
    folder, source = demo
    model, output = ROOT / "tests/models" / name, "model-" + name.rpartition("/")[2].removesuffix(".onnx")
    options, results = ["--feature-range", 32], tmp_path / "results"
    stack.aws.pomona("run", folder / "images", results, "--model", model, *options, "-k", 5, "--shard-size", 64)
    pushed = json.loads(stack.aws.pomona("model", "push", model, f"{stack.results}{output}", *options, "--json").stdout)
    settings = {"pca": {"components": 5}, "shard_size": 64}
    execution = stack.wait(stack.start(source, output, extractor={"model": pushed["model_sha256"]}, **settings))
    assert execution["status"] == "SUCCEEDED", stack.explain(execution)
    manifest, local = stack.manifest(output), json.loads((results / "versions/00000001.json").read_text())
    assert manifest["extractor"] == local["extractor"] and manifest["extractor"]["model_sha256"] == pushed["model_sha256"]
    assert tables_of(manifest, lambda key: stack.read(output, key)) == tables_of(local, lambda key: (results / key).read_bytes())
    again = stack.wait(stack.start(source, output, **settings))
    assert again["status"] == "SUCCEEDED" and json.loads(again["output"])["up_to_date"] is True
    # Commands here read it from the bucket.
    photo = next((folder / "images").rglob("*.jpg"))
    (hit,) = json.loads(stack.aws.pomona("search", f"{stack.results}{output}", photo, "-n", 1, "--json").stdout)
    assert hit["path"] == str(photo.relative_to(folder / "images")) and hit["distance"] == 0
    kept = f"models/{pushed['model_sha256']}"
    stack.aws.pomona("run", folder / "images", tmp_path / "copy", "--model", f"{stack.results}{output}/{kept}/model.onnx", "-k", 2, *options)
    # What cannot be used fails before any shard is paid for.
    bucket, prefix = stack.results.removeprefix("s3://").split("/", 1)
    stack.s3.put_object(Bucket=bucket, Key=f"{prefix}{output}/{kept}/model.onnx", Body=stack.read(output, f"{kept}/model.onnx")[:-1])
    for given, error in ((pushed["model_sha256"], "Dataset.Corrupt"), ("0" * 64, "Model.Invalid")):
        refused = stack.wait(stack.start(source, output, extractor={"model": given}, rebuild=True))
        assert refused["status"] == "FAILED" and refused["error"] == error, refused


def put_hidden(stack, prefix, folders, each):
    """Uploads hidden objects, which a listing reads and a run leaves out: a page of a listing has 1,000 keys."""
    bucket, base = stack.images.removeprefix("s3://").split("/", 1)
    keys = [f"{base}{prefix}/{folder}/.cache/{number:05}" for folder in folders for number in range(each)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: stack.s3.put_object(Bucket=bucket, Key=key, Body=b"-"), keys))


def test_a_bucket_that_functions_list_in_rounds_gives_the_bits_of_one_listing(stack, tmp_path):
    stack.aws.pomona("demo", tmp_path, "--images-only", "--views", 4)
    images = tmp_path / "images"
    folders = sorted(path.name for path in images.iterdir())
    # In the last folder, which no page of the function plan reaches.
    with tarfile.open(images / folders[-1] / "more.tar", "w") as archive:
        for path in sorted((images / folders[0]).iterdir()):
            archive.add(path, arcname=path.name)
    stack.aws.pomona("run", images, tmp_path / "results", "--shard-size", 16)
    source = stack.upload(images, "listed")
    put_hidden(stack, "listed", folders, 220)

    settings = {"shard_size": 16, "objects_per_lister": 500}
    execution = stack.wait(stack.start(source, "listed", **settings))
    assert execution["status"] == "SUCCEEDED", stack.explain(execution)
    records = [key for key in stack.keys("listed") if "/listed/" in key and key.endswith(".json")]
    rounds = {int(key.rsplit("/", 1)[1].split("-")[0]) for key in records}
    # Round 0 is that of the function plan.
    assert len(rounds) >= 2 and len(records) >= 4, records
    local = json.loads((tmp_path / "results/versions/00000001.json").read_text())
    in_folder = tables_of(local, lambda key: (tmp_path / "results" / key).read_bytes())
    assert tables_of(stack.manifest("listed"), lambda key: stack.read("listed", key)) == in_folder

    # With nothing to do, the run leaves no lists.
    again = stack.wait(stack.start(source, "listed", **settings))
    assert again["status"] == "SUCCEEDED" and json.loads(again["output"])["up_to_date"] is True, stack.explain(again)
    left = [key.split("/", 2)[2] for key in stack.keys("listed") if key.startswith(f"runs/{again['name']}/")]
    assert not left, left


def test_the_sample_events_of_a_listing_are_a_run_by_hand(stack, tmp_path):
    images, results = (place.removeprefix("s3://").split("/")[0] for place in (stack.images, stack.results))
    stack.aws.pomona("demo", tmp_path, "--images-only", "--views", 4)
    keys = {f"images/by-hand/{path.relative_to(tmp_path / 'images')}": path for path in (tmp_path / "images").rglob("*.jpg")}
    for key, path in keys.items():
        stack.s3.put_object(Bucket=images, Key=key, Body=path.read_bytes())
    places = {"s3://pomona-images/images/": f"s3://{images}/images/by-hand/", "s3://pomona-results/pomona/listed/": f"{stack.results}by-hand/"}

    def call(name, event):
        return stack.call_sample(name, event, places)

    planned = call("plan", "listed")
    assert planned["listers"] == 1 and "objects" not in planned, planned
    line = json.loads(stack.s3.get_object(Bucket=results, Key=planned["list_key"])["Body"].read())
    sample = json.loads((ROOT / "functions/list/events/ranges.json").read_text())["work"]
    assert sample == without_checksums(line), json.dumps(without_checksums(line))
    assert call("list", "ranges") == {"run": "listed", "objects": 0, "ranges_left": 0}
    assert (done := call("plan", "listed"))["listers"] == 0 and done["objects"] == 56
    for key in keys:
        stack.s3.delete_object(Bucket=images, Key=key)


def test_functions_killed_in_mid_work_are_tried_again(stack, demo):
    # The file whose upload kills the function. Without its record, neither shard nor group is finished.
    victims = {"shard.json": "Featurize", "sums.parquet": "Reduce"}
    killed = {}

    def rule(method, path):
        name = victims.get(path.split("?")[0].rsplit("/", 1)[-1])
        if method != "PUT" or name is None or name in killed:
            return None
        killed[name] = stack.functions(name)
        for pid in killed[name]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return "cut"

    stack.proxy.rule = rule
    stack.run(demo[1], "killed")
    assert set(killed) == set(victims.values()) and all(killed.values()), killed
    same = tables_of(stack.manifest("same"), lambda key: stack.read("same", key))
    stack.proxy.rule = lambda method, path: None
    stack.run(demo[1], "killed", csv=True)
    assert tables_of(stack.manifest("killed"), lambda key: stack.read("killed", key)) == same


def test_a_throttled_and_failing_s3_changes_nothing(stack, demo):
    chance = random.Random(7)
    lock = threading.Lock()

    def rule(method, path):
        with lock:
            drawn = chance.random()
        if drawn > 0.06:
            return None
        return "throttle" if drawn < 0.02 else "fail" if drawn < 0.04 else "cut" if drawn < 0.05 else "cut half"

    read = lambda key: stack.read("shaky", key)  # noqa: E731
    stack.proxy.rule, stack.proxy.conflicts = rule, 0.2
    stack.run(demo[1], "shaky", csv=True, group_size=64)
    assert stack.proxy.faults >= 10
    stack.proxy.rule, stack.proxy.conflicts = lambda method, path: None, 0.0
    same = tables_of(stack.manifest("same"), lambda key: stack.read("same", key))
    manifest = stack.manifest("shaky")
    assert tables_of(manifest, read) == same
    # With several groups, their total has a file of its own.
    assert len(manifest["groups"]) >= 2 and manifest["moments"]["key"] == f"moments/{manifest['moments']['id']}.parquet"
    total = pd.read_parquet(io.BytesIO(read(manifest["moments"]["key"])))["sum"]
    assert [int(value) for value in total] == sums_of(manifest, read).tolist()

    # Without the CSV, the run makes another version with the same basis. Its parts are copied, none is projected.
    before = [read(key) for key in parts_of(manifest, read)]
    assert stack.run(demo[1], "shaky")["version"] == 2
    again = stack.manifest("shaky")
    assert again["groups"] == manifest["groups"] and again["moments"] == manifest["moments"]
    assert [read(key) for key in parts_of(again, read)] == before and len(before) >= 4


def follow(stack, output, version):
    """The rows of a version's features, as readers of symlink.txt see them."""
    frames = []
    for line in stack.read(output, f"features/v={version:08}/symlink.txt").decode().splitlines():
        assert line.startswith(f"{stack.results}{output}/shards/"), line
        bucket, key = line.removeprefix("s3://").split("/", 1)
        frames.append(pd.read_parquet(io.BytesIO(stack.s3.get_object(Bucket=bucket, Key=key)["Body"].read())))
    return pd.concat(frames, ignore_index=True)


def test_the_features_of_each_version_are_found_by_its_list(stack, tmp_path):
    stack.aws.pomona("demo", tmp_path, "--images-only", "--views", 4)
    key = lambda path: str(path.relative_to(tmp_path / "images"))  # noqa: E731
    files = sorted((tmp_path / "images").rglob("*.jpg"), key=key)
    later, files = files[::9], [path for path in files if path not in files[::9]]
    bodies = {key(path): path.read_bytes() for path in later}
    for path in later:
        path.unlink()
    source = stack.upload(tmp_path / "images", "lists")
    settings = {"shard_size": 16, "compression": "zstd"}
    stack.run(source, "lists", **settings)

    # An increment: other images, one of them replaced, and one gone.
    bucket, prefix = source.removeprefix("s3://").split("/", 1)
    gone, replaced, content = key(files[5]), key(files[20]), hashlib.sha256(next(iter(bodies.values()))).hexdigest()
    stack.s3.delete_object(Bucket=bucket, Key=prefix + gone)
    for name, body in [*bodies.items(), (replaced, next(iter(bodies.values())))]:
        stack.s3.put_object(Bucket=bucket, Key=prefix + name, Body=body)
    assert stack.run(source, "lists", **settings)["version"] == 2

    first = sorted(map(key, files))
    second = sorted({*first, *bodies} - {gone})
    of = {1: follow(stack, "lists", 1), 2: follow(stack, "lists", 2)}
    assert of[1]["path"].tolist() == first and of[2]["path"].tolist() == second
    assert of[2].set_index("path").loc[replaced, "content_sha256"] == content
    assert stack.manifest("lists")["images"] == len(second)
    # shards/ has tables of both versions: a pattern there gives images twice.
    tables = [name for name in stack.keys("lists") if name.startswith("shards/") and name.endswith(".parquet")]
    assert len(tables) > len(shards_of(stack.manifest("lists"), lambda name: stack.read("lists", name)))

    # Copies instead of a list: a folder that every reader understands.
    output = stack.run(source, "lists", materialize_features=True, csv=True, **settings)
    assert output["version"] == 3 and output["features"] == "features/v=00000003/"
    names = sorted(name for name in stack.keys("lists") if name.startswith("features/v=00000003/"))
    assert names == [f"features/v=00000003/part-{part:05}.parquet" for part in range(len(names))]
    bucket = pyarrow.fs.S3FileSystem(access_key="test", secret_key="test", region=REGION, scheme="http",
                                     endpoint_override=stack.aws.endpoint.removeprefix("http://"))
    folder = f"{stack.results}lists/features/v=00000003".removeprefix("s3://")
    copied = pq.read_table(folder, filesystem=bucket, partitioning=None).to_pandas()
    assert copied["path"].tolist() == second
    assert [row.tobytes() for row in copied["features"]] == [row.tobytes() for row in of[2]["features"]]
    column = pq.ParquetFile(io.BytesIO(stack.read("lists", names[0]))).metadata.row_group(0).column(0)
    assert column.compression == "ZSTD"


def test_an_undecodable_image_is_a_reject(stack, tmp_path):
    stack.aws.pomona("demo", tmp_path, "--images-only", "--views", 4)
    (tmp_path / "images/Kiwi/broken.jpg").write_bytes(b"this is no image")
    source = stack.upload(tmp_path / "images", "reject")
    output = stack.run(source, "reject", shard_size=None)
    assert (output["images"], output["rejects"]) == (56, 1)
    assert stack.manifest("reject")["settings"]["shard_size"] == 320
    rejects = pd.read_parquet(io.BytesIO(stack.read("reject", output["rejects_table"])))
    assert rejects[["path", "reason"]].values.tolist() == [["Kiwi/broken.jpg", "not_an_image"]]

    for i in range(6):
        (tmp_path / f"images/Kiwi/broken-{i}.jpg").write_bytes(b"")
    stack.upload(tmp_path / "images/Kiwi", "reject/Kiwi")
    failed = stack.wait(stack.start(source, "reject", shard_size=None))
    assert failed["status"] == "FAILED" and failed["error"] == "Dataset.TooManyRejects", stack.explain(failed)
    assert "7 of 63 images were rejected" in failed["cause"]
    table = f"runs/{failed['name']}/rejects.parquet"
    assert table in failed["cause"]
    assert pq.read_table(io.BytesIO(stack.read("reject", table))).num_rows == 7
    assert stack.manifest("reject")["version"] == 1


def test_archived_and_deleted_images_are_rejects_with_reasons_of_their_own(stack, tmp_path):
    stack.aws.pomona("demo", tmp_path, "--images-only", "--views", 4)
    source = stack.upload(tmp_path / "images", "archived")
    bucket, prefix = source.removeprefix("s3://").split("/", 1)
    stack.s3.put_object(Bucket=bucket, Key=f"{prefix}Kiwi/old.jpg", Body=b"archived", StorageClass="GLACIER")
    stack.s3.put_object(Bucket=bucket, Key=f"{prefix}Kiwi/gone.jpg", Body=b"deleted after the listing")

    def rule(method, path):
        if method == "GET" and path.split("?")[0].endswith("/gone.jpg"):
            stack.s3.delete_object(Bucket=bucket, Key=f"{prefix}Kiwi/gone.jpg")

    stack.proxy.rule = rule
    output = stack.run(source, "archived", shard_size=None, max_reject_percent=5)
    assert (output["images"], output["rejects"]) == (56, 2)
    rejects = pd.read_parquet(io.BytesIO(stack.read("archived", output["rejects_table"])))
    assert rejects[["path", "reason"]].values.tolist() == [["Kiwi/gone.jpg", "unreadable"], ["Kiwi/old.jpg", "archived"]]


def test_archives_and_an_inventory_are_inputs(stack, demo, tmp_path):
    folder, source = demo
    (tmp_path / "packed").mkdir()
    with tarfile.open(tmp_path / "packed/fruit.tar", "w") as tar:
        for path in sorted((folder / "images").rglob("*.jpg")):
            tar.add(path, path.relative_to(folder / "images"), filter=lambda member: member if member.isfile() else None)
    packed = stack.upload(tmp_path / "packed", "packed")
    before = len(stack.proxy.sent)
    output = stack.run(packed, "packed")
    assert (output["images"], output["rejects"]) == (168, 0)
    # The sums are exact, so the same images give the same totals, wherever they lie.
    same, manifest = stack.manifest("same"), stack.manifest("packed")
    assert stack.read("packed", manifest["moments"]["key"]) == stack.read("same", same["moments"]["key"])
    featurize = [path for function, method, path in stack.proxy.sent[before:] if "-FeaturizeFunction" in function and "fruit.tar" in path]
    assert len(featurize) <= sum(group["shards"] for group in manifest["groups"]) * 2, featurize
    again = stack.wait(stack.start(packed, "packed"))
    assert json.loads(again["output"])["up_to_date"] is True

    bucket, prefix = source.removeprefix("s3://").split("/", 1)
    listed = stack.s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    rows = [[o["Key"], o["Size"], o["LastModified"].strftime("%Y-%m-%dT%H:%M:%S.%fZ"), o["ETag"].strip('"')]
            for page in listed for o in page["Contents"]]
    text = io.StringIO()
    csv.writer(text).writerows([["key", "size", "last_modified_date", "e_tag"], *reversed(rows)])
    stack.s3.put_object(Bucket=INVENTORIES, Key="demo/keys.csv", Body=text.getvalue())
    folder = f"s3://{INVENTORIES}/demo"
    output = stack.run(source, "inventory", inventory=f"{folder}/keys.csv")
    manifest = stack.manifest("inventory")
    assert output["images"] == 168
    assert manifest["groups"] == same["groups"]
    # Labels of a file, which the results keep. Other labels infer nothing.
    first = rows[0][0].removeprefix(prefix)
    stack.s3.put_object(Bucket=INVENTORIES, Key="demo/labels.csv", Body=f"path,label\n{first},Quince\n")
    stack.run(source, "inventory", inventory=f"{folder}/keys.csv", labels=f"{folder}/labels.csv")
    labelled = stack.manifest("inventory")
    assert {"label": "Quince", "images": 1} in labelled["labels"] and labelled["figures"]["inferred"] == 0


def test_wrong_inputs_are_explained_to_the_console(stack):
    start = lambda request: stack.sfn.start_execution(stateMachineArn=stack.arn, input=json.dumps(request))["executionArn"]  # noqa: E731
    for request, error, words in [
        ({}, "Input.Invalid", '"input\\" is missing'),
        ({"input": stack.images, "output": stack.results, "componets": 3}, "Input.Invalid", "componets"),
        ({"input": stack.images, "output": stack.images}, "Input.Overlap", "overlap"),
        ({"input": stack.images + "nothing/", "output": stack.results + "nothing/"}, "Input.Empty", "no images"),
        ({"input": stack.images, "output": stack.results + "nothing/", "inventory": f"s3://{INVENTORIES}/none.csv"}, "Input.NotFound", "none.csv"),
    ]:
        execution = stack.wait(start(request))
        assert execution["status"] == "FAILED" and execution["error"] == error, stack.explain(execution)
        assert words.replace("\\", "") in execution["cause"].replace("\\", ""), execution["cause"]


def test_two_executions_at_once_end_in_one_right_state(stack, demo):
    arns = [stack.start(demo[1], "race", csv=True, pca={"components": k}, rebuild=True) for k in (10, 20)]
    executions = [stack.wait(arn) for arn in arns]
    assert [e["status"] for e in executions] == ["SUCCEEDED"] * 2, [stack.explain(e) for e in executions]
    versions = [json.loads(e["output"])["version"] for e in executions]
    assert len(set(versions)) == 2
    newest = stack.manifest("race")
    assert newest["version"] == max(versions) and newest["parent"] == min(versions)
    k = newest["basis"]["components"]
    expected = stack.run(demo[1], f"alone-{k}", csv=True, pca={"components": k})
    assert expected["components"] == k
    alone = tables_of(stack.manifest(f"alone-{k}"), lambda key: stack.read(f"alone-{k}", key))
    assert tables_of(newest, lambda key: stack.read("race", key)) == alone


def test_a_run_of_23_shards_in_an_account_with_ten_functions(stack, demo, tmp_path):
    """All shards are started at once, more than the account may run, so calls are throttled at first."""
    stack.deploy(MaxConcurrency=100)
    files = sorted((demo[0] / "images").rglob("*.jpg"), key=lambda path: str(path.relative_to(demo[0] / "images")))[:152]
    for path in files:
        target = tmp_path / path.relative_to(demo[0] / "images")
        target.parent.mkdir(exist_ok=True)
        os.link(path, target)
    source, before = stack.upload(tmp_path, "ten"), stack.proxy.throttled["TooManyRequestsException"]
    for round in range(RUNS):
        output = stack.run(source, f"ten-{round}", shard_size=10)
        assert output["images"] == 152
        manifest = stack.manifest(f"ten-{round}")
        assert len(shards_of(manifest, lambda key: stack.read(f"ten-{round}", key))) == 23
        now = stack.proxy.throttled["TooManyRequestsException"]
        print(f"run {round + 1} of {RUNS}: {output['images']} images in 23 shards, {now - before} calls throttled", flush=True)
        assert now > before, "no call was throttled"
        before = now


def test_a_function_that_runs_out_of_time_is_called_again_and_keeps_its_rows(stack, demo):
    """One call of featurize is killed at its deadline. Others see it come, keep their rows, and say so."""
    same = stack.manifest("same")
    tables = [pd.read_parquet(io.BytesIO(stack.read("same", f"shards/{shard['id']}/features.parquet")))
              for shard in shards_of(same, lambda key: stack.read("same", key)) if shard["rows"]]
    first = {path for table in tables for path in table["path"][:8]}
    calls, lock, kept = collections.Counter(), threading.Lock(), threading.Event()

    def deadline(function):
        if "-FeaturizeFunction" not in function:
            return None
        with lock:
            calls[function] += 1
            # With less than 80 s, a function works for half of its time.
            return {1: 0.01, 2: 24, 3: 24, 4: 24}.get(calls[function])

    def rule(method, path):
        image = urllib.parse.unquote(path.split("?")[0]).partition("/images/demo/")[2]
        if method == "GET" and image and image not in first:
            # No shard is finished before a function has kept its first rows.
            kept.wait(60)
        elif method == "PUT" and "/partials/" in path:
            kept.set()

    stack.proxy.deadline, stack.proxy.rule = deadline, rule
    before = len(stack.proxy.sent)
    arn = stack.start(demo[1], "deadline", csv=True)
    execution = stack.wait(arn)
    assert execution["status"] == "SUCCEEDED", stack.explain(execution)
    assert {"Sandbox.Timedout", "Run.Interrupted"} <= errors_of_children(stack, arn)
    assert {"PUT", "GET", "DELETE"} <= {method for _, method, path in stack.proxy.sent[before:] if "/deadline/partials/" in path}
    assert not [key for key in stack.keys("deadline") if key.startswith("partials/")]
    assert tables_of(stack.manifest("deadline"), lambda key: stack.read("deadline", key)) == tables_of(same, lambda key: stack.read("same", key))


@pytest.fixture(scope="module")
def answers(stack, tmp_path_factory):
    """Images, and the function that answers for the output of a run on them."""
    folder = tmp_path_factory.mktemp("query")
    stack.aws.pomona("demo", folder, "--images-only", "--views", 6)
    # Without a version, the function says so, and is asked again.
    status, error = stack.query.get("/")
    assert (status, error["error"], error["retry"]) == (503, "Output.NoVersion", False), error
    stack.run(stack.upload(folder / "images", "query"), "query")
    return folder / "images"


def test_the_function_url_answers_as_the_program_does(stack, answers, tmp_path):
    query, output = stack.query, f"{stack.results}query/"
    status, about = query.get("/")
    assert status == 200 and (about["version"], about["index"]) == (1, True), about
    assert about["images"] == len(list(answers.rglob("*.jpg"))) and about["limits"]["photo_bytes"] == 4_400_000
    photo = sorted(answers.rglob("*.jpg"))[7]
    status, predicted = query.post("/predict?n=3", photo.read_bytes())
    assert status == 200, predicted
    (said,) = json.loads(stack.aws.pomona("predict", output, photo, "--neighbours", 3, "--json").stdout)
    assert (predicted["label"], predicted["probability"]) == (said["label"], said["probability"])
    assert predicted["neighbours"] == said["neighbours"] and predicted["neighbours"][0]["similarity"] == 1
    for path, options in [("", []), ("&metric=euclidean&label=" + photo.parent.name.replace(" ", "%20"), ["--metric", "euclidean", "--label", photo.parent.name])]:
        status, found = query.post("/search?n=5" + path, photo.read_bytes())
        assert status == 200 and len(found["images"]) == 5, found
        assert found["images"] == json.loads(stack.aws.pomona("search", output, photo, "-n", 5, "--json", *options).stdout)
    key = str(photo.relative_to(answers)).replace(" ", "%20")
    status, like = query.get(f"/search?like={key}&n=2")
    assert status == 200 and len(like["images"]) == 2, like
    # What is wrong has a name, and the function goes on.
    for method, path, body, kind, expected in [
        ("POST", "/predict", b"no image", "image/jpeg", 422), ("POST", "/predict", b"{}", "application/json", 415),
        ("POST", "/predict", b"\xff" * 4_400_001, "image/jpeg", 413), ("POST", "/predict", b"", "image/jpeg", 400), ("GET", "/versions/", None, "", 404),
        ("PUT", "/predict", b"x", "image/jpeg", 405), ("GET", "/search?like=../../x", None, "", 404), ("GET", "/predict?n=x", None, "", 405),
        ("POST", "/predict?n=100000", photo.read_bytes(), "image/jpeg", 400),
    ]:
        status, error = query.ask(method, path, body, kind)
        assert status == expected and error["error"] and error["advice"], f"{method} {path}: {status} {error}"
    assert query.post("/predict", photo.read_bytes())[0] == 200
    # This one, the function does not see.
    assert query.post("/predict", bytes(5_000_000))[0] == 413
    # AuthType AWS_IAM.
    other = FunctionUrl(stack.aws, stack.query.base.rpartition("/")[2], signed=False)
    assert other.get("/")[0] == 403


def test_a_large_photo_is_uploaded_and_then_deleted(stack, answers):
    photo = sorted(answers.rglob("*.jpg"))[0].read_bytes()
    bucket = stack.results.removeprefix("s3://").split("/")[0]
    photos = lambda: [o["Key"] for o in stack.s3.list_objects_v2(Bucket=bucket, Prefix="pomona-query-photos/").get("Contents", [])]  # noqa: E731
    status, offer = stack.query.post(f"/uploads?bytes={len(photo)}", b"")
    assert status == 200 and "content-length" in offer["url"].lower(), offer
    path = f"/predict?upload={offer['upload']}"
    status, missing = stack.query.post(path, b"")
    assert (status, missing["error"]) == (404, "Input.UnknownKey")
    assert put(offer["url"], photo) == (200, b"")
    assert photos() == [f"pomona-query-photos/{offer['upload']}"]
    status, said = stack.query.post(path, b"")
    assert status == 200 and said["label"] == stack.query.post("/predict", photo)[1]["label"], said
    assert not photos()
    assert stack.query.post(f"/uploads?bytes={50 << 20}", b"")[0] == 413


def test_questions_go_on_over_a_new_version_a_kill_and_an_erase(stack, answers, tmp_path):
    """1,000 requests: none fails after one retry, and none answers with an erased image five seconds later."""
    output = f"{stack.results}query/"
    photos = [path.read_bytes() for path in sorted(answers.rglob("*.jpg"))[:20]]
    victim = sorted(answers.rglob("*.jpg"))[3]
    erased = str(victim.relative_to(answers))
    seen, failed, versions, stop = [], [], set(), threading.Event()
    retries = collections.Counter()

    def ask(number):
        for attempt in range(2):
            status, answer = stack.query.post(f"/{('predict', 'search')[number % 2]}?n=50", photos[number % len(photos)])
            if status == 200:
                break
            retries[status] += 1
            if attempt == 0:
                time.sleep(1)
        else:
            failed.append((status, answer))
            return
        versions.add(answer["version"])
        images = answer.get("images") or answer.get("neighbours")
        if any(image["path"] == erased for image in images):
            seen.append(time.monotonic())

    def asks(first):
        number = first
        while number < 1_000 or not stop.is_set():
            ask(number)
            number += 3

    with ThreadPoolExecutor(3) as pool:
        asking = [pool.submit(asks, first) for first in range(3)]
        time.sleep(1)
        (tmp_path / "new").mkdir()
        shutil.copy(sorted(answers.rglob("*.jpg"))[-1], tmp_path / "new/another.jpg")
        source = stack.upload(tmp_path, "query")
        assert stack.run(source, "query")["version"] == 2
        for pid in stack.functions("Query"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(1)
        bucket, prefix = source.removeprefix("s3://").split("/", 1)
        stack.s3.delete_object(Bucket=bucket, Key=prefix + erased)
        stack.aws.pomona("erase", output, erased)
        ended = time.monotonic()
        time.sleep(8)
        stop.set()
        for each in asking:
            each.result()
    assert not failed, failed[:3]
    assert {1, 2, 3} <= versions, versions
    assert seen and max(seen) < ended + 5, max(seen) - ended
    print(f"retried: {dict(retries)}")
    assert stack.query.get(f"/search?like={erased.replace(' ', '%20')}")[0] == 404


def test_a_version_without_an_index_is_searched_in_its_tables(stack, answers):
    photo = sorted(answers.rglob("*.jpg"))[5].read_bytes()
    before = stack.query.post("/search?n=5", photo)[1]
    assert stack.run(stack.images + "query/", "query", index=False)["version"] == before["version"] + 1
    time.sleep(3)
    status, found = stack.query.post("/search?n=5", photo)
    assert status == 200 and found == {**before, "version": before["version"] + 1}


def failures_of_children(stack, arn):
    """Name and cause of each failed attempt of the children of an execution's maps."""
    for run in stack.sfn.list_map_runs(executionArn=arn)["mapRuns"]:
        for child in stack.sfn.list_executions(mapRunArn=run["mapRunArn"], maxResults=1000)["executions"]:
            for event in stack.sfn.get_execution_history(executionArn=child["executionArn"])["events"]:
                if event["type"] == "TaskFailed":
                    yield event["taskFailedEventDetails"]["error"], event["taskFailedEventDetails"].get("cause", "")


def errors_of_children(stack, arn):
    return {error for error, _ in failures_of_children(stack, arn)}


def test_a_redriven_execution_finishes_with_the_bytes_of_an_undisturbed_one(stack, demo):
    """A shard and later the report of a run cannot be written; each time, the fault is lifted and the execution redriven."""
    poisoned = []

    def shard(method, path):
        # S3 refuses one shard with an error that is not retried.
        if method == "PUT" and "/shards/" in path and path.split("?")[0].endswith("features.parquet"):
            poisoned.append(path.split("/shards/")[1].split("/")[0])
            return "refuse" if poisoned[-1] == poisoned[0] else None
        return None

    stack.proxy.rule = shard
    failed = stack.wait(stack.start(demo[1], "redriven", csv=True))
    assert failed["status"] == "FAILED" and failed["error"] == "States.ExceedToleratedFailureThreshold", stack.explain(failed)
    stack.proxy.rule = lambda method, path: "refuse" if method == "PUT" and "/versions/" in path else None
    sent = len(stack.proxy.sent)
    stack.sfn.redrive_execution(executionArn=failed["executionArn"])
    failed = stack.wait(failed["executionArn"])
    assert failed["status"] == "FAILED" and failed["error"] == "Store.Failed", stack.explain(failed)
    # Of the shards, only the one that failed is computed again.
    again = {path.split("/shards/")[1].split("/")[0] for function, method, path in stack.proxy.sent[sent:]
             if method == "PUT" and "-FeaturizeFunction" in function and "/shards/" in path}
    assert again == {poisoned[0]}
    stack.proxy.rule = lambda method, path: None
    stack.sfn.redrive_execution(executionArn=failed["executionArn"])
    done = stack.wait(failed["executionArn"])
    assert done["status"] == "SUCCEEDED" and done["redriveCount"] == 2, stack.explain(done)
    same = tables_of(stack.manifest("same"), lambda key: stack.read("same", key))
    assert tables_of(stack.manifest("redriven"), lambda key: stack.read("redriven", key)) == same
    assert json.loads(done["output"])["rejects"] == 0
    assert stack.run(demo[1], "redriven", csv=True)["up_to_date"] is True


def test_a_poisoned_shard_is_tolerated_or_fails_the_run(stack, demo):
    poisoned = []

    def rule(method, path):
        # S3 refuses one shard with an error that is not retried.
        if method == "PUT" and "/shards/" in path and path.split("?")[0].endswith("features.parquet"):
            shard = path.split("/shards/")[1].split("/")[0]
            if not poisoned:
                poisoned.append(shard)
            if shard == poisoned[0]:
                return "refuse"
        return None

    stack.proxy.rule = rule
    failed = stack.wait(stack.start(demo[1], "poisoned"))
    assert failed["status"] == "FAILED" and failed["error"] == "States.ExceedToleratedFailureThreshold", stack.explain(failed)
    assert not [key for key in stack.keys("poisoned") if key.startswith("versions/")]

    # One of seven shards fails. A new output is needed: with six shards reused, it would be one of one.
    stack.deploy(ToleratedShardFailurePercent=50)
    output = stack.run(demo[1], "tolerated", max_reject_percent=60)
    assert output["rejects"] > 0 and output["images"] + output["rejects"] == 168
    stack.proxy.rule = lambda method, path: None
    healed = stack.run(demo[1], "tolerated", csv=True)
    assert (healed["images"], healed["rejects"]) == (168, 0)
    same = tables_of(stack.manifest("same"), lambda key: stack.read("same", key))
    assert tables_of(stack.manifest("tolerated"), lambda key: stack.read("tolerated", key)) == same


def test_an_execution_that_fails_in_each_state_goes_on_where_it_failed(stack, demo):
    arn = stack.start(demo[1], "each", csv=True)
    for redrives, (state, refused, error) in enumerate([
        ("Featurize", "/features.parquet", "States.ExceedToleratedFailureThreshold"),
        ("Merge", "/sums.parquet", "States.ExceedToleratedFailureThreshold"), ("Reduce", "/basis/", "Store.Failed"),
        ("Project", "/pca/", "States.ExceedToleratedFailureThreshold"), ("Publish", "/scores/", "Store.Failed"),
    ]):
        # S3 refuses the file with an error that is not retried.
        stack.proxy.rule = lambda method, path, refused=refused: "refuse" if method == "PUT" and refused in path else None
        if redrives:
            stack.sfn.redrive_execution(executionArn=arn)
        failed = stack.wait(arn)
        # The error surfaces by itself, as the last event of the state.
        assert failed["status"] == "FAILED" and failed["error"] == error, stack.explain(failed)
        entered = stack.entered(arn)
        assert entered[-1] == state, entered
    stack.proxy.rule = lambda method, path: None
    stack.sfn.redrive_execution(executionArn=arn)
    done = stack.wait(arn)
    assert done["status"] == "SUCCEEDED" and json.loads(done["output"])["images"] == 168, stack.explain(done)
    assert done["redriveCount"] == 5
    same = tables_of(stack.manifest("same"), lambda key: stack.read("same", key))
    assert tables_of(stack.manifest("each"), lambda key: stack.read("each", key)) == same


def test_a_file_that_is_lost_during_a_run_is_made_again(stack, demo):
    lost, lock = [], threading.Lock()

    def rule(method, path):
        if method == "GET" and "/lost/" in path and path.split("?")[0].endswith("/features.parquet"):
            function = next(function for function, _, sent in reversed(stack.proxy.sent) if sent == path)
            with lock:
                if "-ProjectFunction" in function and not lost:
                    lost.append(path.split("?")[0].removeprefix("/").split("/", 1))
                    stack.s3.delete_object(Bucket=lost[0][0], Key=lost[0][1])

    stack.proxy.rule = rule
    stack.run(demo[1], "lost", csv=True)
    assert lost
    same = tables_of(stack.manifest("same"), lambda key: stack.read("same", key))
    assert tables_of(stack.manifest("lost"), lambda key: stack.read("lost", key)) == same


def test_a_published_version_is_announced(stack, demo):
    events, sqs = stack.aws.client("events"), stack.aws.client("sqs")
    queue = sqs.create_queue(QueueName="announced")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    rule = events.put_rule(Name="announced", EventPattern=json.dumps({"source": ["pomona"], "detail-type": ["VersionPublished"]}))["RuleArn"]
    policy = {"Version": "2012-10-17", "Statement": [{
        "Effect": "Allow", "Principal": {"Service": "events.amazonaws.com"}, "Action": "sqs:SendMessage", "Resource": arn,
        "Condition": {"ArnEquals": {"aws:SourceArn": rule}}}]}
    sqs.set_queue_attributes(QueueUrl=queue, Attributes={"Policy": json.dumps(policy)})
    events.put_targets(Rule="announced", Targets=[{"Id": "queue", "Arn": arn}])
    output = stack.run(demo[1], "announced")
    (message,) = sqs.receive_message(QueueUrl=queue, WaitTimeSeconds=10)["Messages"]
    detail = json.loads(message["Body"])["detail"]
    assert (detail["version"], detail["images"], detail["output"]) == (1, 168, f"{stack.results}announced/")
    assert detail["run"] == output["run"] and detail["manifest"] in stack.keys("announced")
    events.remove_targets(Rule="announced", Ids=["queue"])
    events.delete_rule(Name="announced")


def test_start_and_status_tell_how_a_run_goes(stack, demo):
    pomona = lambda *args: stack.aws.pomona(*args, check=False, AWS_ENDPOINT_URL=stack.proxy.endpoint)  # noqa: E731
    before, throttled = len(stack.proxy.sent), stack.proxy.throttled["ThrottlingException"]
    followed = pomona("start", STACK, demo[1], f"{stack.results}cli/", "--shard-size", SHARD_SIZE, "--csv", "--follow", "--json")
    assert followed.returncode == 0, followed.stderr
    status = json.loads(followed.stdout)
    requests = [request for request in stack.proxy.sent[before:] if "Function" in request[0]]
    assert status["status"] == "SUCCEEDED" and status["output"]["images"] == 168
    maps = {each["stage"]: each for each in status["maps"]}
    assert set(maps) == {"Featurize", "Merge", "Project"} and not status["failures"]
    (group,) = stack.manifest("cli")["groups"]
    shards = group["shards"]
    assert maps["Featurize"]["succeeded"] == maps["Featurize"]["total"] == shards and maps["Merge"]["total"] == 1
    assert status["output"]["report"] in stack.keys("cli")

    # The receipt's counts equal the requests to S3, up to the uncertainty of retries and listings.
    receipt = json.loads(stack.read("cli", status["output"]["receipt"]))
    methods = [("list" if "list-type" in path else method) for function, method, path in requests if "Trigger" not in function]
    puts = sum(method in ("PUT", "POST", "list") for method in methods)
    # The report reads pictures in addition to the requests of the run.
    gets = methods.count("GET") - 168
    assert receipt["usage"]["puts"] == pytest.approx(puts, rel=0.25), (puts, receipt["usage"])
    assert receipt["usage"]["gets"] == pytest.approx(gets, rel=0.25), (gets, receipt["usage"])
    # One call of project takes all parts of so few rows.
    assert receipt["usage"]["invocations"] == 3 + shards + 1 + 1
    lines = {line["stage"]: line for line in receipt["lines"]}
    assert lines["featurize"]["invocations"] == shards and lines["featurize"]["memory_mb"] == 3008
    assert lines["merge"]["invocations"] == 1 and lines["merge"]["memory_mb"] == 3008
    assert receipt["at"] == {"place": "lambda", "region": "us-east-1"} and receipt["dollars"]["total"] > 0

    # Following stays within the quota of DescribeMapRun, of which the CLI has no more than anybody else in the account.
    assert stack.proxy.throttled["ThrottlingException"] == throttled
    shown = pomona("status", STACK).stdout
    assert f"{shards} of {shards}" in shown and "console.aws.amazon.com" in shown and "SUCCEEDED" in shown

    arn = stack.start(demo[1], "cli-2")
    stages = set()
    while (seen := json.loads(pomona("status", arn, "--json").stdout))["status"] == "RUNNING":
        stages.add(seen["stage"])
        if seen["stage"] == "Featurize" and seen["maps"]:
            assert seen["maps"][0]["total"] >= seen["maps"][0]["succeeded"]
    # Which stages are seen depends on the speed of the machine. At least one is always seen.
    assert seen["status"] == "SUCCEEDED" and stages and stages <= {None, "Plan", "Featurize", "Merge", "Reduce", "Project", "Publish"}, stages
    assert "finished" not in pomona("status", arn, "--follow").stderr

    failed = pomona("start", stack.arn, f"{stack.images}nothing/", f"{stack.results}cli-3/", "--follow")
    assert failed.returncode == 1 and "error[Execution.Failed]" in failed.stderr and "Input.Empty" in failed.stderr, failed.stderr
    assert "no images" in failed.stdout
    for args, words in [
        (("status", "nobody"), f"stacks: {STACK}"),
        (("status", stack.arn.replace(STACK, "nobody")), "Execution.NotFound"),
        (("status", arn.replace("cli-2", "x")[:-4] + "0000"), "Execution.NotFound"),
        (("status", "arn:aws:s3:::bucket"), "not the ARN of an execution"),
    ]:
        wrong = pomona(*args)
        assert wrong.returncode == 1 and words in wrong.stderr, wrong.stderr
    overlap = pomona("start", STACK, demo[1], f"{demo[1]}results/")
    assert overlap.returncode == 1 and "Input.Overlap" in overlap.stderr
    wrong = pomona("start", STACK, "photos/", f"{stack.results}x/")
    assert wrong.returncode == 2 and "s3://BUCKET" in wrong.stderr


def test_the_smoke_test_for_a_real_account_passes_here(stack):
    """`make smoke-aws` with 56 pictures. Shards are written slowly, so that there is time to stop an execution in its map."""
    stack.proxy.rule = lambda method, path: time.sleep(1) if method == "PUT" and "/redriven-smoke" in path and "features" in path else None
    environment = stack.aws.environment() | {"AWS_ENDPOINT_URL": stack.proxy.endpoint, "POMONA": str(POMONA)}
    command = [sys.executable, pathlib.Path(__file__).with_name("smoke.py"), STACK, "--images", "56", "--shard-size", "8"]
    refused = subprocess.run(command, env=environment, input="no\n", capture_output=True, text=True)
    assert refused.returncode == 1 and "nothing was done" in refused.stderr and "$" in refused.stdout, refused.stderr
    done = subprocess.run([*command, "--yes"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "All checks passed" in done.stdout, done.stdout + done.stderr
    for place in (stack.images, stack.results):
        bucket, prefix = place.removeprefix("s3://").split("/", 1)
        assert not stack.s3.list_object_versions(Bucket=bucket, Prefix=f"{prefix}smoke-").get("Versions")
        assert not stack.s3.list_object_versions(Bucket=bucket, Prefix=f"{prefix}redriven-smoke-").get("Versions")


# The settings of runs started by uploads.
UPLOADS = {"shard_size": SHARD_SIZE, "group_size": 64, "csv": True, "delta": True, "max_reject_percent": 10}


def encrypt(stack):
    """Sets the default keys of both buckets. CloudFormation does it for the bucket of the results; ministack, at a deployment,
    sets the encryption with which a bucket was made."""
    for place, key in zip((stack.images, stack.results), stack.keys_of, strict=True):
        stack.s3.put_bucket_encryption(Bucket=place.removeprefix("s3://").split("/")[0], ServerSideEncryptionConfiguration={"Rules": [
            {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": key}}]})
    stack.proxy.bucket_keys.clear()


@pytest.fixture(scope="module")
def live(stack):
    """The stack with `RunOnUpload`, on its own prefix, with a customer-managed key for each bucket."""
    kms = stack.aws.client("kms")
    owner = {"Sid": "Owner", "Effect": "Allow", "Principal": {"AWS": f"arn:aws:iam::{ACCOUNT}:root"}, "Action": "kms:*", "Resource": "*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [owner]})
    stack.keys_of = [kms.create_key(Policy=policy)["KeyMetadata"]["Arn"] for _ in range(2)]
    stack.deploy(RunOnUpload="true", ImagePrefix="live/", UploadBatchSeconds=1, UploadSettings=json.dumps(json.dumps(UPLOADS, separators=(",", ":"))),
                 ImageKmsKeyArn=stack.keys_of[0], ResultsKmsKeyArn=stack.keys_of[1])
    encrypt(stack)
    # The visibility timeout of the template is minutes, which is too long for a test.
    stack.sqs = stack.aws.client("sqs")
    stack.sqs.set_queue_attributes(QueueUrl=stack.queue, Attributes={"VisibilityTimeout": "1"})
    return stack


def upload_runs(stack, **status):
    executions = stack.sfn.list_executions(stateMachineArn=stack.arn, maxResults=1000, **status)["executions"]
    return [e for e in executions if e["name"].startswith("uploads-")]


def messages_waiting(stack, url):
    names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    attributes = stack.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
    return sum(int(attributes[name]) for name in names)


def settle(stack, keys, seconds=180):
    """Waits until the output of uploads has exactly these keys and no run is active; returns the manifest."""
    deadline, most = time.monotonic() + seconds, 0
    seen = None
    while time.monotonic() < deadline:
        most = max(most, len(upload_runs(stack, statusFilter="RUNNING")))
        quiet = not messages_waiting(stack, stack.queue) and not upload_runs(stack, statusFilter="RUNNING")
        if quiet and not [key for key in stack.keys("uploads") if key.startswith("inbox/")]:
            manifest = stack.manifest("uploads")
            paths = follow(stack, "uploads", manifest["version"])["path"].tolist()
            seen = set(paths)
            if seen == keys:
                assert len(paths) == len(keys) == manifest["images"]
                assert most <= 1, f"{most} upload runs at once"
                return manifest
        time.sleep(0.2)
    raise AssertionError(f"not settled: {seen}, expected {keys}; runs {upload_runs(stack)}, keys {list(stack.keys('uploads'))}")


def event(stack, key, kind="Object Created"):
    bucket, prefix = stack.images.removeprefix("s3://").split("/", 1)
    return json.dumps({"version": "0", "id": key, "source": "aws.s3", "detail-type": kind, "detail": {
        "bucket": {"name": bucket}, "object": {"key": prefix + key, "size": 1, "etag": "0", "sequencer": "00"}}})


def test_uploads_start_runs_whose_result_is_that_of_the_bucket(live, tmp_path):
    """Events come up to three times, each copy at its own time, so not in order."""
    stack, chance = live, random.Random(3)
    stack.proxy.copies = lambda: chance.randint(1, 3)
    stack.aws.pomona("demo", tmp_path, "--images-only", "--views", 8)
    files = sorted((tmp_path / "images").rglob("*.jpg"))
    bucket, prefix = stack.images.removeprefix("s3://").split("/", 1)
    key = lambda path: str(path.relative_to(tmp_path / "images"))  # noqa: E731
    put = lambda path: stack.s3.put_object(Bucket=bucket, Key=prefix + key(path), Body=path.read_bytes())  # noqa: E731
    first, burst = files[:30], files[30:90]
    # Two images in an archive, which the plan reads.
    members = {f"pack.tar!{key(path)}" for path in files[110:112]}
    with tarfile.open(tmp_path / "images/pack.tar", "w") as tar:
        for path in files[110:112]:
            tar.add(path, key(path))
    for path in [*first, tmp_path / "images/pack.tar"]:
        put(path)
    # An image that stays unreadable: each run tries it again.
    stack.s3.put_object(Bucket=bucket, Key=f"{prefix}Kiwi/old.jpg", Body=b"archived", StorageClass="GLACIER")
    settle(stack, {key(path) for path in first} | members)

    # A burst of uploads with deletions and replacements.
    for i, path in enumerate(burst):
        put(path)
        if i % 10 == 9:
            gone = first.pop()
            stack.s3.delete_object(Bucket=bucket, Key=prefix + key(gone))
            gone.unlink()
            first[i // 10].write_bytes(files[100 + i // 10].read_bytes())
            put(first[i // 10])
    manifest = settle(stack, {key(path) for path in first + burst} | members)
    for path in files[90:]:
        path.unlink()
    (tmp_path / "images/Kiwi/old.jpg").write_bytes(b"no image either")
    stack.aws.pomona("run", tmp_path / "images", tmp_path / "results", "--shard-size", SHARD_SIZE, "--csv", "--max-reject-percent", 10)
    local = json.loads((tmp_path / "results/versions/00000001.json").read_text())
    in_folder = tables_of(local, lambda k: (tmp_path / "results" / k).read_bytes())
    assert tables_of(manifest, lambda k: stack.read("uploads", k)) == in_folder
    assert not [run for run in upload_runs(stack) if run["status"] != "SUCCEEDED"]

    # Duplicate, late and reordered messages, and one about a deleted object, change nothing.
    runs = len(upload_runs(stack))
    for path in [*reversed(burst[:5]), burst[0]]:
        stack.sqs.send_message(QueueUrl=stack.queue, MessageBody=event(stack, key(path)))
    stack.sqs.send_message(QueueUrl=stack.queue, MessageBody=event(stack, "never/was.jpg", "Object Deleted"))
    deadline = time.monotonic() + 60
    while len(upload_runs(stack)) == runs and time.monotonic() < deadline:
        time.sleep(0.1)
    assert settle(stack, {key(path) for path in first + burst} | members) == manifest

    # An unparseable message goes to the dead-letter queue and blocks nothing.
    stack.sqs.send_message(QueueUrl=stack.queue, MessageBody="no event")
    put(files[0])
    deadline = time.monotonic() + 60
    while not messages_waiting(stack, stack.dead_letters) and time.monotonic() < deadline:
        time.sleep(0.2)
    (letter,) = stack.sqs.receive_message(QueueUrl=stack.dead_letters)["Messages"]
    assert letter["Body"] == "no event"
    settle(stack, {key(path) for path in first + burst} | members)


def test_questions_are_answered_with_keys_of_the_customer(live):
    """Reading needs kms:Decrypt, an upload kms:GenerateDataKey. The output of uploads is encrypted, too."""
    stack = live
    stack.deploy(QueryOutput="uploads/")
    encrypt(stack)
    status, about = stack.query.get("/")
    assert status == 200 and about["version"] == stack.manifest("uploads")["version"], about
    bucket, prefix = stack.images.removeprefix("s3://").split("/", 1)
    (first, *_) = [o["Key"] for o in stack.s3.list_objects_v2(Bucket=bucket, Prefix=prefix)["Contents"] if o["Key"].endswith(".jpg")]
    photo = stack.s3.get_object(Bucket=bucket, Key=first)["Body"].read()
    _, offer = stack.query.post(f"/uploads?bytes={len(photo)}", b"")
    assert put(offer["url"], photo) == (200, b"")
    status, found = stack.query.post(f"/search?n=1&upload={offer['upload']}", b"")
    assert status == 200 and found["images"][0]["path"] == first.removeprefix(prefix), found


def another(key):
    """The key of a file of the same kind, with another id."""
    return re.sub("[0-9a-f]{16,}", lambda found: "0" * len(found.group()), key)


def test_the_scheduled_vacuum_keeps_what_it_is_told_to(live):
    stack = live
    before = stack.manifest("uploads")
    versions = [key for key in stack.keys("uploads") if key.endswith(".json") and key.startswith("versions/")]
    assert len(versions) >= 2
    function = stack.function("Vacuum")
    request = {"output": f"{stack.results}uploads/", "keep_versions": 1, "older_than_days": 0}
    # A vacuum has died, and a run has left its mark: Step Functions says that it has ended.
    bucket, prefix = stack.results.removeprefix("s3://").split("/", 1)
    (ended, *_) = upload_runs(stack, statusFilter="SUCCEEDED")
    marks = {"vacuum.json": {"at": "2026-01-01T00:00:00Z"},
             "runs/left/started.json": {"at": pd.Timestamp.now("UTC").isoformat(), "holder": {"execution": ended["executionArn"]}}}
    for key, mark in marks.items():
        stack.s3.put_object(Bucket=bucket, Key=f"{prefix}uploads/{key}", Body=json.dumps(mark))
    # So have runs that left files of each kind behind.
    leftovers = {"containers": "packed", "labels": "inventory", "csv": "same", "rejects": "reject", "moments": "shaky",
                 "extractors": "same", "classifier": "same", "shards": "same", "groups": "same", "basis": "same",
                 "vocabularies": "orb"}
    left = ["partials/" + "0" * 32 + ".json", *(another(next(key for key in stack.keys(output) if key.startswith(f"{folder}/")))
                                               for folder, output in leftovers.items())]
    for key in left:
        stack.s3.put_object(Bucket=bucket, Key=f"{prefix}uploads/{key}", Body=b"left")
    time.sleep(1.1)
    answer = stack.aws.client("lambda").invoke(FunctionName=function, Payload=json.dumps(request))
    vacuumed = json.loads(answer["Payload"].read())
    assert vacuumed["kept"] == [before["version"]] and vacuumed["objects"] > 0, vacuumed
    assert not {*left, *marks} & set(stack.keys("uploads"))
    assert stack.manifest("uploads") == before
    tables_of(before, lambda key: stack.read("uploads", key))

    # With a check afterwards: it fails if a file is damaged. All calls so far had to do without the role's permission for it.
    stack.deploy(CheckWeekly="true")
    encrypt(stack)
    call = lambda: stack.aws.client("lambda").invoke(FunctionName=function, Payload=json.dumps(request | {"check": True}))  # noqa: E731
    sound = call()
    assert "FunctionError" not in sound, sound["Payload"].read()
    key = f"groups/{before['groups'][0]['id']}/sums.parquet"
    body = stack.read("uploads", key)
    stack.s3.put_object(Bucket=bucket, Key=f"{prefix}uploads/{key}", Body=body[:-9] + bytes([body[-9] ^ 1]) + body[-8:])
    damaged = call()
    assert "FunctionError" in damaged and json.loads(damaged["Payload"].read())["errorType"] == "Dataset.Corrupt"
    stack.s3.put_object(Bucket=bucket, Key=f"{prefix}uploads/{key}", Body=body)


# What no test of this file needs, and what does: statements, or parts of statements (an action or a resource).
RARE = {
    "List: ReadArchives": "an archive in a part of a large input that functions list: here, the function plan reaches it first",
    "List: WriteLists *containers/*": "the same",
    "List: ReadWork *labels/*": "a large input with a file of labels",
    **dict.fromkeys(("List: ReadKey", "List: ResultsKey", "List: ResultsKey kms:Decrypt", "List: ResultsKey kms:GenerateDataKey"),
                    "a large input in a bucket with a key"),
    **dict.fromkeys(("Query: ReadVersion uploads/groups/*/group.json", "Query: ReadVersion uploads/shards/*/features.parquet"),
                    "a version without an index, which the output of other questions has"),
    "Plan: WritePlan *delta/_delta_log/*": "a run after one that was killed between the commit of its version and that of the Delta log",
    "Publish: UploadParts": "a CSV above 16 MB whose upload fails",
    "Publish: DropReport": "an erasure while the report is written",
    **dict.fromkeys(("Query: ReadVersion query/vocabularies/*", "Query: ReadVersion uploads/vocabularies/*"), "a version with visual words"),
    **dict.fromkeys(("Query: ReadVersion query/models/*", "Query: ReadVersion uploads/models/*"), "a version with a model of the user's"),
    "Vacuum: Delete uploads/report.html": "a vacuum of the version of the newest report, whose successors have none",
    "Vacuum: ReadVersions uploads/broken-*-vacuum.json": "two vacuums that break the lock of a third one at the same time",
}


def test_every_statement_of_every_role_is_needed(stack):
    """Replays all that was asked, with each statement, and each action and resource of one, removed in turn."""
    needed = {}
    for roles, asked in stack.proxy.generations:
        for role in (role for role in roles.policies if f"/{STACK}-" in role):
            logical = re.search(r"-(\w+)Role-", role).group(1)
            for (sid, part), is_needed in roles.needed(role, asked.get(role, ())).items():
                # Resources without the names of the stack, the account and the buckets.
                short = part and (part.rpartition("pomona/")[2] if "pomona/" in part else re.sub(r"-[0-9A-Za-z]{12,}", "", part.rpartition(":::")[2]))
                name = f"{logical}: {sid}" + (f" {short}" if short else "")
                needed[name] = needed.get(name, False) or is_needed
    roles = {name.partition(":")[0] for name in needed}
    assert roles == {"Plan", "List", "Featurize", "Reduce", "Project", "Publish", "Trigger", "Vacuum", "Query", "Pipeline"}, roles
    never = sorted(name for name, is_needed in needed.items() if not is_needed and name not in RARE)
    assert not never, f"nothing needs these statements, or these parts of them: {never}"
