"""Checks that template, definition and code agree. These tests start no service."""

import json
import os
import re
import subprocess

import boto3
import pytest
import yaml
from samtranslator.parser.parser import Parser
from samtranslator.translator.translator import Translator
from local_aws import REGION, ROOT, VENVS

STAGES = ["Plan", "Featurize", "Reduce", "Project", "Publish"]
FUNCTIONS = [*STAGES, "Trigger", "Vacuum"]
# Errors that AWS raises, in addition to those of src/error.rs.
AWS_ERRORS = {
    "Lambda.ServiceException", "Lambda.AWSLambdaException", "Lambda.SdkClientException", "Lambda.TooManyRequestsException",
    "Lambda.Unknown", "Sandbox.Timedout", "Runtime.ExitError", "States.Timeout", "States.ALL",
}


class Tag(yaml.SafeLoader):
    """Parses the short forms of CloudFormation, such as !Sub, as {"Sub": value}."""


Tag.add_multi_constructor("!", lambda loader, suffix, node: {suffix: (
    loader.construct_scalar(node) if isinstance(node, yaml.ScalarNode)
    else loader.construct_sequence(node, deep=True) if isinstance(node, yaml.SequenceNode)
    else loader.construct_mapping(node, deep=True))})

# Short forms of {"Fn::Name": ...}, and the two names without the prefix.
TAGS = {"Sub", "GetAtt", "If", "Equals", "Not", "Contains", "Ref", "Condition"}
TEMPLATE = yaml.load((ROOT / "template.yaml").read_text(), Tag)
RESOURCES = TEMPLATE["Resources"]
SOURCE = (ROOT / "statemachine/pipeline.asl.json").read_text()


def definition():
    """The definition after substitution."""
    filled = re.sub(r"\$\{(\w+)FunctionArn\}", rf"arn:aws:lambda:{REGION}:123456789012:function:\1", SOURCE)
    return json.loads(filled.replace("${MaxConcurrency}", "100").replace("${ToleratedShardFailurePercent}", "1"))


def states(machine):
    """Yields all states, including those inside maps."""
    for name, state in machine["States"].items():
        yield name, state
        if "ItemProcessor" in state:
            yield from states(state["ItemProcessor"])


def kinds():
    """Whether an error is retryable, for every error name of the library."""
    text = (ROOT / "src/error.rs").read_text()
    return {name: retry == "true" for name, retry in re.findall(r'= "(\w+\.\w+)", retry: (\w+)', text)}


def test_sam_and_cfn_lint_find_nothing():
    env = {**os.environ, "SAM_CLI_TELEMETRY": "0", "AWS_DEFAULT_REGION": REGION}
    done = subprocess.run([VENVS / "sam/bin/sam", "validate", "--lint"], cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def cfn_lint(template, file):
    file.write_text(json.dumps(template))
    done = subprocess.run([VENVS / "sam/bin/cfn-lint", "--regions", REGION, "--", file], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("on", ["false", "true"])
def test_the_template_that_cloudformation_sees_passes_cfn_lint(tmp_path, on):
    template = json.loads(json.dumps(TEMPLATE, default=str))
    expand = lambda node: (  # noqa: E731
        {("Ref" if k == "Ref" else k if k in ("Condition",) else f"Fn::{k}") if len(node) == 1 and k in TAGS else k:
             (expand(v).split(".", 1) if k == "GetAtt" and len(node) == 1 else expand(v)) for k, v in node.items()}
        if isinstance(node, dict) else [expand(item) for item in node] if isinstance(node, list) else node)
    template = expand(template)
    for resource in template["Resources"].values():
        # As `sam package` does: replace the folders by objects in a bucket.
        for name in ("CodeUri", "DefinitionUri"):
            if name in resource["Properties"]:
                resource["Properties"][name] = "s3://artifacts/object"
    parameters = {name: str(p["Default"]) for name, p in template["Parameters"].items()} | {
        "RunOnUpload": on, "Vacuum": on, "CheckWeekly": on, "AlarmEmail": "" if on == "false" else "someone@example.com"}
    translated = Translator({}, Parser(), boto_session=boto3.Session(region_name=REGION)).translate(template, parameters)
    assert not any(r["Type"].startswith("AWS::Serverless") for r in translated["Resources"].values())
    # If SAM treated a condition as true, the schedule and the queue would be active by default.
    schedule = translated["Resources"]["VacuumFunctionWeekly"]["Properties"]
    assert schedule["State"] == {"Fn::If": ["Vacuum", "ENABLED", "DISABLED"]}
    mapping = translated["Resources"]["TriggerFunctionQueue"]["Properties"]
    assert mapping["Enabled"] == {"Fn::If": ["RunOnUpload", True, False]}
    cfn_lint(translated, tmp_path / "translated.json")


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
    cfn_lint(template, tmp_path / "inlined.json")


def test_the_definition_is_valid_amazon_states_language(tmp_path):
    file = tmp_path / "pipeline.asl.json"
    file.write_text(json.dumps(definition()))
    validator = VENVS / "npm/node_modules/.bin/asl-validator"
    done = subprocess.run([validator, "--json-path", file], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_substitution_is_given_and_used():
    given = RESOURCES["Pipeline"]["Properties"]["DefinitionSubstitutions"]
    assert set(re.findall(r"\$\{(\w+)\}", SOURCE)) == set(given)
    for name in STAGES:
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


def test_a_conflict_and_damage_start_again_at_the_plan():
    all_states = definition()["States"]
    again = {"ResultPath": "$.error", "Next": "Again"}
    assert all_states["Publish"]["Catch"][0] == {"ErrorEquals": ["Dataset.Conflict", "Dataset.Corrupt"], **again}
    assert all_states["Reduce"]["Catch"][0] == {"ErrorEquals": ["Dataset.Corrupt"], **again}
    # Of an error in a map, only its number of failures reaches the machine. So an item that finds damage ends, and the
    # next stage misses its record. A shard that is not computed has no record either, and would become rejects.
    for name, item, damaged in (("Merge", "MergeGroup", "GroupDamaged"), ("Project", "ProjectShard", "PartDamaged")):
        inner = all_states[name]["ItemProcessor"]["States"]
        assert inner[item]["Catch"] == [{"ErrorEquals": ["Dataset.Corrupt"], "ResultPath": None, "Next": damaged}]
        assert inner[damaged]["Type"] == "Pass" and inner[damaged]["Result"] == {}
    assert list(all_states["Featurize"]["ItemProcessor"]["States"]) == ["FeaturizeShard"]


def test_maps_read_jsonl_and_carry_nothing_back():
    maps = [state for _, state in states(definition()) if state["Type"] == "Map"]
    assert [m["Label"] for m in maps] == ["Featurize", "Merge", "Project"]
    for state in maps:
        assert state["ItemReader"]["ReaderConfig"] == {"InputType": "JSONL"}
        assert set(state["ItemReader"]["Parameters"]) == {"Bucket.$", "Key.$"}
        assert state["ItemProcessor"]["ProcessorConfig"] == {"Mode": "DISTRIBUTED", "ExecutionType": "STANDARD"}
        assert state["ResultPath"] is None and "ItemBatcher" not in state
        (child,) = (s for s in state["ItemProcessor"]["States"].values() if s["Type"] == "Task")
        assert child["ResultSelector"] == {} and child["End"] is True


def test_groups_are_merged_unless_all_of_them_are_finished():
    all_states = definition()["States"]
    assert all_states["Featurize"]["Next"] == all_states["Anything to do?"]["Choices"][1]["Next"] == "Anything to merge?"
    assert all_states["Anything to merge?"] == {
        "Type": "Choice", "Choices": [{"Variable": "$.groups", "NumericGreaterThan": 0, "Next": "Merge"}], "Default": "Reduce"}
    merge = all_states["Merge"]
    # A shard that failed is tolerated, a group is not.
    assert merge["Next"] == "Reduce" and merge["ToleratedFailurePercentage"] == 0


def test_a_conflict_goes_back_to_the_plan_five_times_and_a_failure_carries_its_cause():
    all_states = definition()["States"]
    assert all_states["Again?"]["Choices"] == [{"Variable": "$.attempt", "NumericLessThanEquals": 5, "Next": "Plan"}]
    assert all_states["Failed"] == {"Type": "Fail", "ErrorPath": "$.error.Error", "CausePath": "$.error.Cause"}
    for name, state in all_states.items():
        if state["Type"] in ("Task", "Map"):
            assert state["Catch"][-1] == {"ErrorEquals": ["States.ALL"], "ResultPath": "$.error", "Next": "Failed"}, name


def statements(role):
    """All statements of a role, also those that depend on a condition."""
    for policy in RESOURCES[role]["Properties"]["Policies"]:
        for statement in policy["PolicyDocument"]["Statement"]:
            options = statement["If"][1:] if "If" in statement else [statement]
            yield from (option for option in options if "Sid" in option)


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


def test_uploads_reach_the_trigger_and_what_cannot_be_read_is_kept():
    queue, letters = RESOURCES["UploadQueue"]["Properties"], RESOURCES["UploadDeadLetters"]["Properties"]
    assert queue["RedrivePolicy"]["deadLetterTargetArn"] == {"GetAtt": "UploadDeadLetters.Arn"}
    assert queue["SqsManagedSseEnabled"] and letters["SqsManagedSseEnabled"]
    assert letters["MessageRetentionPeriod"] == 14 * 86_400
    trigger = RESOURCES["TriggerFunction"]["Properties"]
    assert queue["VisibilityTimeout"] >= 6 * trigger["Timeout"]
    source = trigger["Events"]["Queue"]["Properties"]
    assert source["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
    assert source["BatchSize"] <= 10 or source["MaximumBatchingWindowInSeconds"] == {"Ref": "UploadBatchSeconds"}
    rules = {name: r["Properties"] for name, r in RESOURCES.items() if r["Type"] == "AWS::Events::Rule"}
    assert set(rules) == {"UploadRule", "EndedRule", "LookRule"}
    (statement,) = RESOURCES["UploadQueuePolicy"]["Properties"]["PolicyDocument"]["Statement"]
    assert statement["Condition"]["ArnEquals"]["aws:SourceArn"] == [{"GetAtt": f"{name}.Arn"} for name in rules]
    for rule in rules.values():
        assert rule["Targets"][0]["Arn"] == {"GetAtt": "UploadQueue.Arn"}
        # No rule is active by default.
        assert rule["State"] == {"If": ["RunOnUpload", "ENABLED", "DISABLED"]}
    assert TEMPLATE["Parameters"]["RunOnUpload"]["Default"] == TEMPLATE["Parameters"]["Vacuum"]["Default"] == "false"
    known = (ROOT / "functions/host/src/event.rs").read_text()
    for pattern in (rules["UploadRule"]["EventPattern"], rules["EndedRule"]["EventPattern"]):
        for text in [*pattern["source"], *pattern["detail-type"]]:
            assert f'"{text}"' in known
    look = json.loads(rules["LookRule"]["Targets"][0]["Input"])
    assert f'("{look["source"]}", "{look["detail-type"]}")' in known.replace("| ", "")


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


def pomona_metrics():
    """The metrics that functions/host/src/metrics.rs writes: the pairs of Figures::counts, and the others by name."""
    text = (ROOT / "functions/host/src/metrics.rs").read_text().split("#[cfg(test)]")[0]
    counted = re.findall(r'\("(\w+)", self\.\1\)', text)
    others = re.findall(r'\.measure\("(\w+)"', text)
    assert len(counted) == 6 and len(others) == 5, (counted, others)
    return {*counted, *others}


def test_the_dashboard_and_the_alarms_watch_what_is_there():
    body = RESOURCES["Dashboard"]["Properties"]["DashboardBody"]["Sub"]
    filled = re.sub(r"\$\{(AWS::)?(\w+)\}", r"\2", body)
    assert set(re.findall(r"\$\{([A-Z]\w+)\}", body)) <= set(RESOURCES) | {"AWS"}
    functions = {f"{name}Function" for name in FUNCTIONS}
    watched = []
    for widget in json.loads(filled)["widgets"]:
        assert widget["x"] + widget["width"] <= 24
        for metric in widget["properties"]["metrics"]:
            watched.append(tuple(metric[:4]))
    alarms = {name: r for name, r in RESOURCES.items() if r["Type"] == "AWS::CloudWatch::Alarm"}
    assert set(alarms) == {"FailedAlarm", "DeadLetterAlarm", "RejectsAlarm", "SlowAlarm", "SpendingAlarm"}
    for alarm in alarms.values():
        assert alarm["Condition"] == "HasAlarmEmail" and alarm["Properties"]["AlarmActions"] == [{"Ref": "Alerts"}]
        (dimension,) = alarm["Properties"]["Dimensions"]
        value = dimension["Value"].get("Sub", "")
        watched.append((alarm["Properties"]["Namespace"], alarm["Properties"]["MetricName"], dimension["Name"], value.replace("${AWS::StackName}", "StackName")))
    ours = [metric for metric in watched if metric[0] == "Pomona"]
    assert len(ours) >= 10
    for _, metric, dimension, value in ours:
        assert metric in pomona_metrics() and dimension == "Function"
        assert value.removeprefix("StackName-") in functions, value
    assert RESOURCES["SlowAlarm"]["Properties"]["Threshold"] == 0.9 * TEMPLATE["Globals"]["Function"]["Timeout"] * 1000


def test_the_state_machine_has_the_name_that_status_looks_for():
    assert RESOURCES["Pipeline"]["Properties"]["Name"] == {"Sub": "${AWS::StackName}-pipeline"}
    assert 'PIPELINE: &str = "-pipeline"' in (ROOT / "src/aws/executions.rs").read_text()


def test_the_estimate_knows_the_memory_of_the_functions():
    text = "".join((ROOT / f"src/cost/{name}.rs").read_text() for name in ("estimate", "schedule"))
    memory = {name: int(mb.replace("_", "")) for name, mb in re.findall(r"const (\w+)_MB: f64 = ([\d_]+)\.0;", text)}
    of = lambda name: RESOURCES[f"{name}Function"]["Properties"]["MemorySize"]  # noqa: E731
    assert {of("Plan"), of("Project"), of("Publish")} == {memory["PLAN"]} and of("Reduce") == memory["REDUCE"]
    featurize = TEMPLATE["Parameters"]["FeaturizeMemory"]["Default"]
    assert of("Featurize") == {"Ref": "FeaturizeMemory"} and f"Deployment {{ memory: {featurize:_}," in text
    assert f"concurrency: {TEMPLATE['Parameters']['MaxConcurrency']['Default']}, account" in text
