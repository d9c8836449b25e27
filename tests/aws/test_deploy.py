"""`pomona aws deploy` on the local AWS: the package that `make package` writes, without SAM."""

import json
import os
import pty
import select
import subprocess
import sys
import time

import pytest
from local_aws import POMONA, REGION, ROOT, LocalAws

STACK = "fruit"


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """The package of the functions that `make lambdas-host` or `make lambdas` has built."""
    folder = tmp_path_factory.mktemp("package") / "aws"
    subprocess.run([sys.executable, ROOT / "functions/package.py", ROOT / ".aws-sam/build", folder], check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def aws():
    with LocalAws() as aws:
        yield aws


def deploy(aws, package, *args, check=True):
    return aws.pomona("aws", "deploy", "--stack", STACK, "--region", REGION, "--package", package, *args, check=check)


def stacks(aws):
    return {stack["StackName"]: stack["StackStatus"] for stack in aws.client("cloudformation").list_stacks()["StackSummaries"]
            if stack["StackStatus"] != "DELETE_COMPLETE"}


def parameters(aws):
    described = aws.client("cloudformation").describe_stacks(StackName=STACK)["Stacks"][0]
    return {p["ParameterKey"]: p["ParameterValue"] for p in described["Parameters"]}


def test_equal_builds_give_equal_packages(package, tmp_path):
    subprocess.run([sys.executable, ROOT / "functions/package.py", ROOT / ".aws-sam/build", tmp_path], check=True, capture_output=True)
    for file in package.iterdir():
        assert file.read_bytes() == (tmp_path / file.name).read_bytes(), file.name
    assert sorted(file.name for file in package.iterdir()) == ["lambda.zip", "pipeline.asl.json", "template.json"]


def test_deploy_from_an_empty_account_to_a_result(aws, package, tmp_path):
    # A dry run prints the changes, and makes no stack.
    done = deploy(aws, package, "--dry-run")
    assert "A new stack fruit" in done.stdout and "PlanFunction" in done.stdout and "AWS::StepFunctions::StateMachine" in done.stdout
    assert done.stdout.endswith("Nothing was changed (--dry-run)\n") and STACK not in stacks(aws)

    done = deploy(aws, package, "--yes", "--parameter", "MaxConcurrency=4", "--parameter", "GlueDatabase=fruit_tables")
    assert stacks(aws)[STACK] == "CREATE_COMPLETE" and "pomona aws start fruit s3://" in done.stdout
    assert parameters(aws)["MaxConcurrency"] == "4" and parameters(aws)["ImagePrefix"] == "images/"
    bucket = f"pomona-deploy-000000000000-{REGION}"
    closed = aws.client("s3").get_public_access_block(Bucket=bucket)["PublicAccessBlockConfiguration"]
    assert all(closed.values())

    # The lines that it prints are what comes next.
    aws.pomona("demo", tmp_path, "--images-only", "--views", 3)
    outputs = {o["OutputKey"]: o["OutputValue"] for o in aws.client("cloudformation").describe_stacks(StackName=STACK)["Stacks"][0]["Outputs"]}
    images = outputs["Images"].removeprefix("s3://").split("/", 1)
    for file in (tmp_path / "images").rglob("*.jpg"):
        aws.client("s3").put_object(Bucket=images[0], Key=images[1] + str(file.relative_to(tmp_path / "images")), Body=file.read_bytes())
    start = next(line.split("pomona ", 1)[1].split() for line in done.stdout.splitlines() if "pomona aws start" in line)
    aws.pomona(*start)
    show = next(line.split("pomona ", 1)[1].split() for line in done.stdout.splitlines() if "pomona show" in line)
    assert "42 images" in aws.pomona(*show).stdout

    # A second deployment of the same has nothing to do; another value changes the stack, and the others stay.
    assert deploy(aws, package, "--yes").stdout == "Nothing to change\n"
    done = deploy(aws, package, "--yes", "--json", "--parameter", "LogRetentionDays=7")
    changed = json.loads(done.stdout)
    assert changed["change_set"]["is_new"] is False and changed["outputs"]["Images"] == outputs["Images"]
    assert parameters(aws)["LogRetentionDays"] == "7" and parameters(aws)["MaxConcurrency"] == "4"


def test_the_tables_of_glue_have_the_columns_of_the_files(aws, package, tmp_path):
    import pyarrow.parquet as pq

    aws.pomona("demo", tmp_path, "--views", 3, "--model", ROOT / "tests/models/tiny.onnx")
    # Keypoints are the column that not each output has.
    aws.pomona("run", tmp_path / "images", tmp_path / "keypoints", "--extractor", "orb", "--words", 8, "-k", 3, "--keep-keypoints")
    files = {"scores": "results/pca/*/*.parquet", "features": "keypoints/features/*/*.parquet",
             "predictions": "results/predictions/*/*.parquet", "duplicates": "results/duplicates/*/*.parquet",
             "outliers": "results/outliers/*/*.parquet"}
    kinds = {"string": "string", "bigint": "int64", "timestamp": "timestamp[us", "array<float>": "list<element: float",
             "double": "double", "boolean": "bool",
             "array<struct<x:float,y:float,octave:int,angle:float,response:float,descriptor:binary>>":
                 "list<element: struct<x: float not null, y: float not null, octave: int32 not null, angle: float not null, "
                 "response: float not null, descriptor: fixed_size_binary[32] not null>"}
    tables = {table["Name"]: table for table in aws.client("glue").get_tables(DatabaseName="fruit_tables")["TableList"]}
    assert tables.keys() == files.keys()
    for name, pattern in files.items():
        schema = pq.read_schema(next(tmp_path.glob(pattern)))
        columns = tables[name]["StorageDescriptor"]["Columns"]
        assert [column["Name"] for column in columns] == schema.names, name
        for column in columns:
            assert str(schema.field(column["Name"]).type).startswith(kinds[column["Type"]]), f"{name}.{column}"
        assert tables[name]["Parameters"]["projection.v.type"] == "injected"
        assert tables[name]["Parameters"]["storage.location.template"].endswith("/v=${v}")


@pytest.mark.parametrize("args, name, words", [
    (["--yes", "--parameter", "MaxConcurrencies=4"], "Input.Invalid", "MaxConcurrency"),
    (["--yes", "--parameter", "RunOnUpload=maybe"], "Input.Invalid", "true, false"),
    ([], "Input.Invalid", "--yes"),
])
def test_wrong_use_changes_nothing(aws, package, args, name, words):
    before = stacks(aws)
    done = deploy(aws, package, *args, check=False)
    assert done.returncode == 2 and f"error[{name}]" in done.stderr and words in done.stderr, done.stderr
    assert stacks(aws) == before


def test_a_failed_deployment_says_why(aws, package, tmp_path):
    broken = tmp_path / "aws"
    broken.mkdir()
    for file in package.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    # A program that cannot start, and CloudFormation does not wait for it for five minutes.
    (broken / "lambda.zip").write_bytes(b"no zip")
    template = (broken / "template.json").read_text()
    assert template.count('"ServiceTimeout": 300') == 1
    (broken / "template.json").write_text(template.replace('"ServiceTimeout": 300', '"ServiceTimeout": 3'))
    done = aws.pomona("aws", "deploy", "--stack", "broken", "--region", REGION, "--package", broken, "--yes", check=False)
    assert done.returncode == 1 and "error[Stack.Failed]" in done.stderr and "ProgramStarts: " in done.stderr, done.stdout + done.stderr
    missing = aws.pomona("aws", "deploy", "--package", tmp_path / "nowhere", "--yes", check=False)
    assert missing.returncode == 1 and "error[Stack.NoPackage]" in missing.stderr and "template.json" in missing.stderr


def test_guided_asks_for_each_parameter(aws, package):
    """In a terminal: empty answers keep what is deployed, and the last question can be denied."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(POMONA, [str(POMONA), "aws", "deploy", "--stack", STACK, "--region", REGION, "--package", str(package), "--guided"],
                  aws.environment() | {"TERM": "dumb"})
    seen, answered, deadline = "", 0, time.monotonic() + 120
    asked = []
    while time.monotonic() < deadline:
        if not select.select([terminal], [], [], 0.5)[0]:
            continue
        try:
            seen += os.read(terminal, 4096).decode(errors="replace")
        except OSError:
            break
        if seen[answered:].endswith("]: ") or seen[answered:].endswith("[y/N] "):
            asked.append(seen[answered:].splitlines()[-1])
            answered = len(seen)
            os.write(terminal, b"9\n" if "MaxConcurrency" in asked[-1] else b"\n")
    os.waitpid(pid, 0)
    os.close(terminal)
    names = json.loads((package / "template.json").read_text())["Parameters"]
    assert len(asked) == len(names) + 1, seen
    assert any(line.startswith("MaxConcurrency [4]: ") for line in asked) and "Deploy to fruit?" in asked[-1]
    assert "Nothing was changed" in seen and parameters(aws)["MaxConcurrency"] == "4"
