"""The template, the definition and the code held against each other. Nothing is started here."""

import json
import os
import re
import subprocess

import pytest
import yaml
from local_aws import REGION, ROOT, VENVS

FUNCTIONS = ["Plan", "Featurize", "Reduce", "Project", "Publish"]
# What AWS itself raises, beside the names of src/error.rs.
AWS_ERRORS = {
    "Lambda.ServiceException", "Lambda.AWSLambdaException", "Lambda.SdkClientException", "Lambda.TooManyRequestsException",
    "Lambda.Unknown", "Sandbox.Timedout", "Runtime.ExitError", "States.Timeout", "States.ALL",
}


class Tag(yaml.SafeLoader):
    """Reads CloudFormation's short forms as {"Fn": value}."""


Tag.add_multi_constructor("!", lambda loader, suffix, node: {suffix: (
    loader.construct_scalar(node) if isinstance(node, yaml.ScalarNode)
    else loader.construct_sequence(node, deep=True) if isinstance(node, yaml.SequenceNode)
    else loader.construct_mapping(node, deep=True))})

TEMPLATE = yaml.load((ROOT / "template.yaml").read_text(), Tag)
RESOURCES = TEMPLATE["Resources"]
SOURCE = (ROOT / "statemachine/pipeline.asl.json").read_text()


def definition():
    """The definition with its substitutions filled in."""
    filled = re.sub(r"\$\{(\w+)FunctionArn\}", rf"arn:aws:lambda:{REGION}:123456789012:function:\1", SOURCE)
    return json.loads(filled.replace("${MaxConcurrency}", "100").replace("${ToleratedShardFailurePercent}", "1"))


def states(machine):
    """All states, those inside maps too."""
    for name, state in machine["States"].items():
        yield name, state
        if "ItemProcessor" in state:
            yield from states(state["ItemProcessor"])


def kinds():
    """Name and retryability of every error of the library."""
    text = (ROOT / "src/error.rs").read_text()
    return {name: retry == "true" for name, retry in re.findall(r'= "(\w+\.\w+)", retry: (\w+)', text)}


def test_sam_and_cfn_lint_find_nothing():
    env = {**os.environ, "SAM_CLI_TELEMETRY": "0", "AWS_DEFAULT_REGION": REGION}
    done = subprocess.run([VENVS / "sam/bin/sam", "validate", "--lint"], cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_definition_inlined_passes_cfn_lint(tmp_path):
    template = {
        "Resources": {
            "Role": {"Type": "AWS::IAM::Role", "Properties": {"AssumeRolePolicyDocument": {
                "Version": "2012-10-17",
                "Statement": [{"Effect": "Allow", "Principal": {"Service": "states.amazonaws.com"}, "Action": "sts:AssumeRole"}]}}},
            "Machine": {"Type": "AWS::StepFunctions::StateMachine",
                        "Properties": {"RoleArn": {"Fn::GetAtt": ["Role", "Arn"]}, "Definition": definition()}},
        }
    }
    file = tmp_path / "inlined.json"
    file.write_text(json.dumps(template))
    done = subprocess.run([VENVS / "sam/bin/cfn-lint", file], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_definition_is_valid_amazon_states_language(tmp_path):
    file = tmp_path / "pipeline.asl.json"
    file.write_text(json.dumps(definition()))
    validator = VENVS / "npm/node_modules/.bin/asl-validator"
    done = subprocess.run([validator, "--json-path", file], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_substitution_is_given_and_used():
    given = RESOURCES["Pipeline"]["Properties"]["DefinitionSubstitutions"]
    assert set(re.findall(r"\$\{(\w+)\}", SOURCE)) == set(given)
    for name in FUNCTIONS:
        assert given[f"{name}FunctionArn"] == {"GetAtt": f"{name}Function.Arn"}


def test_each_function_is_built_from_its_crate_and_has_its_role_and_log():
    found = [name.removesuffix("Function") for name, r in RESOURCES.items() if r["Type"] == "AWS::Serverless::Function"]
    assert sorted(found) == sorted(FUNCTIONS)
    for name in FUNCTIONS:
        function, low = RESOURCES[f"{name}Function"], name.lower()
        assert function["Metadata"] == {"BuildMethod": "rust-cargolambda", "BuildProperties": {"Binary": low}}
        assert function["Properties"]["CodeUri"] == f"functions/{low}"
        assert f'name = "{low}"' in (ROOT / f"functions/{low}/Cargo.toml").read_text()
        assert function["Properties"]["Role"] == {"GetAtt": f"{name}Role.Arn"}
        assert RESOURCES[f"{name}Logs"]["Properties"]["RetentionInDays"] == {"Ref": "LogRetentionDays"}


def test_error_names_are_those_of_the_library_and_only_retryable_ones_are_retried():
    known = kinds()
    assert len(known) >= 20
    for name, state in states(definition()):
        for retry in state.get("Retry", []):
            for error in retry["ErrorEquals"]:
                assert error in AWS_ERRORS or known.get(error) is True, f"{name} retries {error}"
            assert retry["JitterStrategy"] == "FULL" and retry["MaxAttempts"] <= 8
        for catch in state.get("Catch", []):
            assert all(e in AWS_ERRORS or e in known for e in catch["ErrorEquals"]), name
        if state["Type"] == "Task":
            retried = {e for retry in state["Retry"] for e in retry["ErrorEquals"]}
            assert {e for e, retryable in known.items() if retryable} <= retried, name
            assert "States.ALL" not in retried and state["TimeoutSeconds"] <= 900, name
    publish = definition()["States"]["Publish"]["Catch"][0]
    assert publish == {"ErrorEquals": ["Dataset.Conflict"], "ResultPath": "$.error", "Next": "Again"}


def test_maps_read_jsonl_and_carry_nothing_back():
    maps = [state for _, state in states(definition()) if state["Type"] == "Map"]
    assert [m["Label"] for m in maps] == ["Featurize", "Merge", "Project"]
    for state in maps:
        assert state["ItemReader"]["ReaderConfig"] == {"InputType": "JSONL"}
        assert set(state["ItemReader"]["Parameters"]) == {"Bucket.$", "Key.$"}
        assert state["ItemProcessor"]["ProcessorConfig"] == {"Mode": "DISTRIBUTED", "ExecutionType": "STANDARD"}
        assert state["ResultPath"] is None and "ItemBatcher" not in state
        (child,) = state["ItemProcessor"]["States"].values()
        assert child["ResultSelector"] == {} and child["End"] is True


def test_a_conflict_goes_back_to_the_plan_five_times_and_a_failure_carries_its_cause():
    all_states = definition()["States"]
    assert all_states["Again?"]["Choices"] == [{"Variable": "$.attempt", "NumericLessThanEquals": 5, "Next": "Plan"}]
    assert all_states["Failed"] == {"Type": "Fail", "ErrorPath": "$.error.Error", "CausePath": "$.error.Cause"}
    for name, state in all_states.items():
        if state["Type"] in ("Task", "Map"):
            assert state["Catch"][-1] == {"ErrorEquals": ["States.ALL"], "ResultPath": "$.error", "Next": "Failed"}, name


def statements(role):
    for policy in RESOURCES[role]["Properties"]["Policies"]:
        yield from policy["PolicyDocument"]["Statement"]


def objects_of(role):
    """Allowed (action, place) pairs of a role's object statements; a place is the key's end below the prefix."""
    found = set()
    for statement in statements(role):
        actions = [a for a in statement["Action"] if a.startswith("s3:") and a != "s3:ListBucket"]
        resources = statement["Resource"] if isinstance(statement["Resource"], list) else [statement["Resource"]]
        for action in actions:
            for resource in resources:
                text = json.dumps(resource)
                place = "images" if "ImagePrefix" in text else text.split("${ResultPrefix}*")[1].rstrip('"}')
                found.add((action, place))
    return found


# What each stage does to the store; the names on the right are those of src/dataset.rs.
CALLS = {
    "Plan": {("s3:GetObject", "pomona.json"), ("s3:GetObject", "versions/*"), ("s3:PutObject", "pomona.json"),
             ("s3:PutObject", "runs/*"), ("s3:PutObject", "_SUCCESS")},
    "Featurize": {("s3:GetObject", "images"), ("s3:GetObject", "runs/*"), ("s3:GetObject", "shards/*/features.parquet"),
                  ("s3:GetObject", "partials/*"), ("s3:PutObject", "shards/*"), ("s3:PutObject", "runs/*"),
                  ("s3:DeleteObject", "partials/*")},
    "Reduce": {("s3:GetObject", "runs/*"), ("s3:GetObject", "shards/*"), ("s3:GetObject", "moments/*"),
               ("s3:GetObject", "versions/*"), ("s3:PutObject", "runs/*"), ("s3:PutObject", "moments/*"),
               ("s3:PutObject", "basis/*"), ("s3:PutObject", "versions/*")},
    "Project": {("s3:GetObject", "basis/*"), ("s3:GetObject", "shards/*/features.parquet"), ("s3:PutObject", "pca/*"),
                ("s3:PutObject", "runs/*")},
    "Publish": {("s3:GetObject", "runs/*"), ("s3:GetObject", "shards/*/shard.json"), ("s3:GetObject", "versions/*"),
                ("s3:PutObject", "versions/*"), ("s3:PutObject", "pca/*"), ("s3:PutObject", "csv/*"),
                ("s3:PutObject", "rejects/*"), ("s3:AbortMultipartUpload", "csv/*"), ("s3:DeleteObject", "runs/*"),
                ("s3:DeleteObject", "pca/*"), ("s3:DeleteObject", "csv/*"), ("s3:DeleteObject", "rejects/*")},
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_each_role_allows_what_its_stage_does_and_no_more(name):
    assert objects_of(f"{name}Role") == CALLS[name]


def test_no_statement_allows_everything_and_unnamed_resources_are_those_that_have_no_name():
    roles = [name for name, r in RESOURCES.items() if r["Type"] == "AWS::IAM::Role"]
    assert len(roles) == len(FUNCTIONS) + 1
    for role in roles:
        for statement in statements(role):
            actions = statement["Action"]
            assert not any("*" in action for action in actions), role
            if statement["Resource"] == "*":
                assert statement["Sid"] in ("Trace", "DeliverLogs"), f"{role}: {statement['Sid']}"
                assert all(a.startswith(("xray:", "logs:")) for a in actions)
    policy = RESOURCES["PipelineMapPolicy"]["Properties"]["PolicyDocument"]["Statement"]
    assert [s["Action"] for s in policy] == [
        ["states:StartExecution"], ["states:DescribeExecution", "states:StopExecution", "states:RedriveExecution"]]


def test_buckets_are_closed_encrypted_versioned_and_kept():
    buckets = {name: r for name, r in RESOURCES.items() if r["Type"] == "AWS::S3::Bucket"}
    assert set(buckets) == {"ImageBucket", "ResultsBucket"}
    for name, bucket in buckets.items():
        properties = bucket["Properties"]
        assert bucket["DeletionPolicy"] == bucket["UpdateReplacePolicy"] == "Retain"
        assert properties["VersioningConfiguration"] == {"Status": "Enabled"}
        assert all(properties["PublicAccessBlockConfiguration"].values())
        assert "BucketEncryption" in properties and "LifecycleConfiguration" in properties
        (statement,) = RESOURCES[f"{name}Policy"]["Properties"]["PolicyDocument"]["Statement"]
        assert statement["Effect"] == "Deny" and statement["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
