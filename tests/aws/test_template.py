"""Checks that template, definition and code agree. These tests start no service."""

import copy
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

STAGES = ["Plan", "List", "Featurize", "Reduce", "Project", "Publish"]
FUNCTIONS = [*STAGES, "Trigger", "Vacuum", "Query"]
# Errors that AWS raises, in addition to those of src/error.rs.
AWS_ERRORS = {
    "Lambda.ServiceException", "Lambda.AWSLambdaException", "Lambda.SdkClientException", "Lambda.TooManyRequestsException",
    "Lambda.Unknown", "Sandbox.Timedout", "Runtime.ExitError", "States.Timeout", "States.TaskFailed", "States.ALL",
}


class Tag(yaml.SafeLoader):
    """Parses the short forms of CloudFormation, such as !Sub, as {"Sub": value}."""


Tag.add_multi_constructor("!", lambda loader, suffix, node: {suffix: (
    loader.construct_scalar(node) if isinstance(node, yaml.ScalarNode)
    else loader.construct_sequence(node, deep=True) if isinstance(node, yaml.SequenceNode)
    else loader.construct_mapping(node, deep=True))})

# Short forms of {"Fn::Name": ...}, and the two names without the prefix.
TAGS = {"Sub", "GetAtt", "If", "Equals", "Not", "And", "Or", "Join", "Select", "Contains", "Ref", "Condition"}
TEMPLATE = yaml.load((ROOT / "template.yaml").read_text(), Tag)
RESOURCES = TEMPLATE["Resources"]
SOURCE = (ROOT / "statemachine/pipeline.asl.json").read_text()


def definition():
    """The definition after substitution."""
    filled = re.sub(r"\$\{(\w+)FunctionArn\}", rf"arn:aws:lambda:{REGION}:123456789012:function:\1", SOURCE)
    return json.loads(filled.replace("${MaxConcurrency}", "8").replace("${ToleratedShardFailurePercent}", "1"))


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
    template["Globals"]["Function"]["CodeUri"] = "s3://artifacts/object"
    parameters = {name: str(p["Default"]) for name, p in template["Parameters"].items()} | {
        "RunOnUpload": on, "Vacuum": on, "CheckWeekly": on, "Query": "off" if on == "false" else "public", "AlarmEmail": "" if on == "false" else "someone@example.com",
        **({} if on == "false" else {
            "ImageKmsKeyArn": f"arn:aws:kms:{REGION}:123456789012:key/1", "ResultsKmsKeyArn": f"arn:aws:kms:{REGION}:123456789012:key/2",
            "PermissionsBoundaryArn": "arn:aws:iam::123456789012:policy/boundary", "VpcSubnetIds": "subnet-1", "VpcSecurityGroupIds": "sg-1",
            "ImageBucketName": "images", "ResultsBucketName": "results"})}
    translated = Translator({}, Parser(), boto_session=boto3.Session(region_name=REGION)).translate(copy.deepcopy(template), parameters)
    assert not any(r["Type"].startswith("AWS::Serverless") for r in translated["Resources"].values())
    # The version of a function has a new name when the template changes. A parameter changes its description, which replaces
    # it; the old one stays for executions that are running.
    versions = {name: r for name, r in translated["Resources"].items() if r["Type"] == "AWS::Lambda::Version"}
    assert len(versions) == len(STAGES)
    for name, version in versions.items():
        assert version["DeletionPolicy"] == version["UpdateReplacePolicy"] == "Retain", name
        refers = re.findall(r'"Ref": "(\w+)"', json.dumps(version["Properties"]["Description"]))
        assert {"VpcSubnetIds", "VpcSecurityGroupIds"} <= set(refers) and ("FeaturizeMemory" in refers) == name.startswith("Featurize")
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
        # Step Functions developer guide, "Updating state machines": running executions keep their definition. With the ARN of a
        # published version in it, a deployment does not change the functions of a run.
        assert given[f"{name}FunctionArn"] == {"Ref": f"{name}Function.Version"}
        function = RESOURCES[f"{name}Function"]["Properties"]
        assert function["AutoPublishAlias"] == "live" and function["AutoPublishAliasAllProperties"] is True
    (invoke,) = [s for s in statements("PipelineRole") if s["Sid"] == "Invoke"]
    assert invoke["Resource"] == [{"Sub": f"${{{name}Function.Arn}}:*"} for name in STAGES]


def test_one_program_has_all_functions_and_the_handler_names_one():
    found = [name.removesuffix("Function") for name, r in RESOURCES.items() if r["Type"] == "AWS::Serverless::Function"]
    assert sorted(found) == sorted(FUNCTIONS)
    # One place decides the processor for `sam build` and `sam deploy`. A parameter would be asked for twice.
    assert TEMPLATE["Globals"]["Function"]["Architectures"] in (["x86_64"], ["arm64"])
    assert TEMPLATE["Globals"]["Function"]["CodeUri"] == "functions/lambda" and "Architecture" not in TEMPLATE["Parameters"]
    assert 'name = "lambda"' in (ROOT / "functions/lambda/Cargo.toml").read_text()
    dispatch = (ROOT / "functions/lambda/src/main.rs").read_text()
    for name in FUNCTIONS:
        function, low = RESOURCES[f"{name}Function"], name.lower()
        assert function["Metadata"] == {"BuildMethod": "rust-cargolambda", "BuildProperties": {"Binary": "lambda"}}
        properties = function["Properties"]
        assert properties["Handler"] == low and "CodeUri" not in properties and "Architectures" not in properties
        assert f'"{low}" => pomona_{low}::serve()' in dispatch
        # The thin binaries are for `cargo lambda watch`.
        assert f'name = "{low}"' in (ROOT / f"functions/{low}/Cargo.toml").read_text()
        # Lambda truncates long names of functions, so the metrics do not take their dimension from there.
        assert properties["Environment"]["Variables"]["POMONA_FUNCTION"] == {"Sub": f"${{AWS::StackName}}-{name}Function"}
        assert properties["Role"] == {"GetAtt": f"{name}Role.Arn"}
        assert RESOURCES[f"{name}Logs"]["Properties"]["RetentionInDays"] == {"Ref": "LogRetentionDays"}


def retriers(state):
    """The retrier of every error of a state."""
    return {error: retry for retry in state.get("Retry", []) for error in retry["ErrorEquals"]}


def tasks():
    """The states that call functions, by name."""
    return {name: s for name, s in states(definition()) if s["Type"] == "Task" and s["Resource"] == "arn:aws:states:::lambda:invoke"}


def test_error_names_are_those_of_the_library_and_only_retryable_ones_are_retried():
    known = kinds()
    assert len(known) >= 20 and len(tasks()) == 8
    for name, state in states(definition()):
        for error, retry in retriers(state).items():
            # featurize keeps its rows when it runs out of time, and continues.
            again = name == "FeaturizeShard" and error == "Run.Interrupted"
            assert error in AWS_ERRORS or known.get(error) is True or again, f"{name} retries {error}"
            assert retry["JitterStrategy"] == "FULL"
        for catch in state.get("Catch", []):
            assert all(e in AWS_ERRORS or e in known for e in catch["ErrorEquals"]), name
    for name, state in tasks().items():
        retried = retriers(state)
        assert {e for e, retryable in known.items() if retryable} <= set(retried), name
        assert "States.ALL" not in retried, name


def test_a_conflict_and_damage_start_again_at_the_plan():
    all_states = definition()["States"]
    again = {"ResultPath": "$.error", "Next": "Again"}
    assert all_states["Publish"]["Catch"] == [{"ErrorEquals": ["Dataset.Conflict", "Dataset.Corrupt"], **again}]
    assert all_states["Reduce"]["Catch"] == [{"ErrorEquals": ["Dataset.Corrupt"], **again}]
    # Of an error in a map, only its number of failures reaches the machine. So an item that finds damage ends, and the
    # next stage misses its record. A shard that is not computed has no record either, and would become rejects.
    for name, item, damaged in (("Merge", "MergeGroup", "GroupDamaged"), ("Project", "ProjectShard", "PartDamaged")):
        inner = all_states[name]["ItemProcessor"]["States"]
        assert inner[item]["Catch"] == [{"ErrorEquals": ["Dataset.Corrupt"], "ResultPath": None, "Next": damaged}]
        assert inner[damaged]["Type"] == "Pass" and inner[damaged]["Result"] == {}
    assert list(all_states["Featurize"]["ItemProcessor"]["States"]) == ["FeaturizeShard"]


def test_throttled_calls_wait_longer_than_any_queue_of_a_new_account():
    """Lambda developer guide, "Lambda quotas": new accounts have less concurrency. Step Functions developer guide, "Handling
    errors": the error is Lambda.TooManyRequestsException. MAX_ATTEMPTS and LONGEST_WAIT are those of the simulation."""
    simulation = (ROOT / "src/cost/simulate.rs").read_text()
    for name, state in tasks().items():
        retry = retriers(state)["Lambda.TooManyRequestsException"]
        assert retry["ErrorEquals"] == ["Lambda.TooManyRequestsException"], name
        assert retry["MaxAttempts"] >= 100 and retry["MaxDelaySeconds"] <= 30, name
        assert f"const THROTTLED_RETRIES: u32 = {retry['MaxAttempts']};" in simulation
        assert f"const FIRST_WAIT: f64 = {retry['IntervalSeconds']}.0;" in simulation
        assert f"const LONGEST_WAIT: f64 = {retry['MaxDelaySeconds']}.0;" in simulation
    # The queue of uploads needs a function too.
    assert TEMPLATE["Parameters"]["MaxConcurrency"]["Default"] < 10


def test_a_function_that_runs_out_of_time_is_not_started_from_nothing_again():
    """Step Functions developer guide, "Handling errors": a timeout of a function is Sandbox.Timedout."""
    timeout = TEMPLATE["Globals"]["Function"]["Timeout"]
    host = (ROOT / "functions/host/src/deadline.rs").read_text()
    assert "RESERVE: Duration = Duration::from_secs(40)" in host
    for name, state in tasks().items():
        # Otherwise the state times out before the function can answer.
        assert state["TimeoutSeconds"] > timeout, name
        attempts = {e: retry["MaxAttempts"] for e, retry in retriers(state).items() if e in ("Sandbox.Timedout", "States.Timeout")}
        children = ("ListRanges", "FeaturizeShard", "MergeGroup", "ProjectShard")
        assert attempts == ({"Sandbox.Timedout": 1, "States.Timeout": 1} if name in children else {}), name


def test_maps_read_jsonl_and_carry_nothing_back():
    maps = [state for _, state in states(definition()) if state["Type"] == "Map"]
    assert [m["Label"] for m in maps] == ["List", "Featurize", "Merge", "Project"]
    for state in maps:
        assert state["ItemReader"]["ReaderConfig"] == {"InputType": "JSONL"}
        assert set(state["ItemReader"]["Parameters"]) == {"Bucket.$", "Key.$"}
        assert state["ItemProcessor"]["ProcessorConfig"] == {"Mode": "DISTRIBUTED", "ExecutionType": "STANDARD"}
        assert state["ResultPath"] is None and "ItemBatcher" not in state
        (child,) = (s for s in state["ItemProcessor"]["States"].values() if s["Type"] == "Task")
        assert child["ResultSelector"] == {} and child["End"] is True
        # Step Functions developer guide, "ResultWriter (Map)": without it, results above 256 KiB fail the map with
        # States.DataLimitExceeded, which no catch sees. Three bytes of each child reach that at about 87,000 children.
        assert state["ResultWriter"] == {
            "Resource": "arn:aws:states:::s3:putObject", "Parameters": {"Bucket.$": "$.bucket", "Prefix.$": "$.map_results"}}
    (write,) = [s for s in statements("PipelineRole") if s["Sid"] == "WriteMapResults"]
    assert set(write["Action"]) == {"s3:PutObject", "s3:GetObject", "s3:ListMultipartUploadParts", "s3:AbortMultipartUpload"}
    assert write["Resource"]["Sub"].endswith("runs/*/maps/*")
    assert 'keys::map_results' in (ROOT / "functions/plan/src/lib.rs").read_text()


def test_groups_are_merged_unless_all_of_them_are_finished():
    all_states = definition()["States"]
    assert all_states["Featurize"]["Next"] == all_states["Anything to do?"]["Choices"][1]["Next"] == "Anything to merge?"
    assert all_states["Anything to merge?"] == {
        "Type": "Choice", "Choices": [{"Variable": "$.groups", "NumericGreaterThan": 0, "Next": "Merge"}], "Default": "Reduce"}
    merge = all_states["Merge"]
    # A shard that failed is tolerated, a group is not.
    assert merge["Next"] == "Reduce" and merge["ToleratedFailurePercentage"] == 0


def test_a_large_input_is_listed_in_rounds():
    all_states = definition()["States"]
    assert all_states["Plan"]["Next"] == "Anything to list?"
    choice = {key: value for key, value in all_states["Anything to list?"].items() if key != "Comment"}
    assert choice == {"Type": "Choice", "Default": "Anything to do?",
                      "Choices": [{"Variable": "$.listers", "NumericGreaterThan": 0, "Next": "List"}]}
    # The same plan goes on with what was listed: `attempt` is still in the state. A range that is not listed is an error.
    assert all_states["List"]["Next"] == "Plan" and all_states["List"]["ToleratedFailurePercentage"] == 0
    answer = (ROOT / "functions/plan/src/lib.rs").read_text()
    assert all(f"    {field}:" in answer for field in ("listers", "list_key", "attempt", "input", "output", "bucket", "map_results"))


def test_visual_words_are_made_once_before_the_plan():
    all_states = definition()["States"]
    assert all_states["Begin"]["Next"] == "Visual words?" and all_states["Begin"]["Parameters"]["vocabulary"] is None
    choice = all_states["Visual words?"]
    assert choice["Default"] == "Plan" and [rule["Next"] for rule in choice["Choices"]] == ["Vocabulary"]
    words, plan = all_states["Vocabulary"], all_states["Plan"]
    payload = words["Parameters"]["Payload"]
    assert words["Next"] == "Plan" and words["Retry"] == plan["Retry"] and payload["step"] == "vocabulary"
    # Rounds of listings and later attempts count the same words: each state on the way carries their name.
    assert plan["Parameters"]["Payload"]["vocabulary.$"] == all_states["Again"]["Parameters"]["vocabulary.$"] == "$.vocabulary"
    assert "    vocabulary: Option<String>," in (ROOT / "functions/plan/src/lib.rs").read_text().split("struct Answer")[1]


def test_the_plan_knows_how_many_functions_share_its_work():
    payload = definition()["States"]["Plan"]["Parameters"]["Payload"]
    maps = [state for _, state in states(definition()) if state["Type"] == "Map"]
    assert {payload["concurrency"]} == {state["MaxConcurrency"] for state in maps}
    assert "concurrency: Option<u32>" in (ROOT / "functions/plan/src/lib.rs").read_text()


def test_a_conflict_goes_back_to_the_plan_five_times():
    all_states = definition()["States"]
    assert all_states["Again?"]["Choices"] == [{"Variable": "$.attempt", "NumericLessThanEquals": 5, "Next": "Plan"}]


def test_a_failed_state_can_be_redriven():
    """Step Functions developer guide, "Restarting state machine executions with redrive": an execution that ended in a Fail
    state fails again when it is redriven. So errors surface at the state that failed, where the redrive continues."""
    machine = definition()
    fails = {name for name, state in machine["States"].items() if state["Type"] == "Fail"}
    for name, state in states(machine):
        for catch in state.get("Catch", []):
            assert catch["Next"] not in fails, name
            assert "States.ALL" not in catch["ErrorEquals"] or catch["Next"] == "Published", name
    # The only way to a Fail state: five plans that other runs have overtaken.
    ways = [name for name, state in machine["States"].items() if {state.get("Next"), state.get("Default")} & fails]
    assert ways == ["Again?"]
    # "IAM permissions for Map Run redrive": the executions of a map have the name of the map in their ARN.
    redrive = RESOURCES["PipelineMapPolicy"]["Properties"]["PolicyDocument"]["Statement"][1]
    assert "states:RedriveExecution" in redrive["Action"]
    assert [r["Sub"].rsplit(":execution:", 1)[1] for r in redrive["Resource"]] == ["${Pipeline.Name}:*", "${Pipeline.Name}/*"]


def test_a_published_version_is_announced_and_a_lost_event_fails_nothing():
    """EventBridge user guide, "PutEvents": 256 KB an entry; the default bus needs no name."""
    announce = definition()["States"]["Announce"]
    (entry,) = announce["Parameters"]["Entries"]
    assert (entry["Source"], entry["DetailType"]) == ("pomona", "VersionPublished")
    assert {"input.$", "output.$", "version.$", "images.$", "rejects.$", "run.$", "manifest.$"} <= set(entry["Detail"])
    published = (ROOT / "src/stages/records.rs").read_text().split("pub struct Published {")[1].split("}")[0]
    for name, path in entry["Detail"].items():
        if not path.startswith("$$."):
            assert f"pub {path.removeprefix('$.')}:" in published and name == path.removeprefix("$.") + ".$"
    assert definition()["States"]["Publish"]["Next"] == "Announce" and announce["ResultPath"] is None
    assert announce["Catch"] == [{"ErrorEquals": ["States.ALL"], "ResultPath": None, "Next": "Published"}]
    (statement,) = [s for s in statements("PipelineRole") if s["Sid"] == "Announce"]
    assert statement["Action"] == ["events:PutEvents"] and statement["Resource"]["Sub"].endswith(":event-bus/default")


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
                assert statement["Sid"] in ("Trace", "DeliverLogs", "Vpc"), f"{role}: {statement['Sid']}"
                assert all(a.startswith(("xray:", "logs:", "ec2:")) for a in actions)
            # Outputs are anywhere below ResultPrefix. Those of trigger, vacuum and query are in one place.
            resources = statement["Resource"] if isinstance(statement["Resource"], list) else [statement["Resource"]]
            if role in ("TriggerRole", "VacuumRole", "QueryRole"):
                assert not any("ResultPrefix}*" in json.dumps(r) for r in resources), f"{role}: {statement['Sid']}"
    policy = RESOURCES["PipelineMapPolicy"]["Properties"]["PolicyDocument"]["Statement"]
    assert [s["Action"] for s in policy] == [
        ["states:StartExecution"], ["states:DescribeExecution", "states:StopExecution", "states:RedriveExecution"]]


def reads_images(by_sid):
    """Whether a role reads objects of the image bucket: images, or the lists of members of archives."""
    return bool({"ReadImages", "ReadPictures", "ReadArchives"} & set(by_sid))


def test_every_role_learns_that_an_object_is_missing():
    """S3 API reference, "GetObject": without s3:ListBucket, S3 answers 403 instead of 404 for a missing object. The condition
    on s3:prefix must hold for requests that have none, which is what IfExists means (IAM user guide, "Condition operators").
    A function needs this for a record that may not exist: that of a failed shard, a partial, a lock."""
    for name in FUNCTIONS:
        by_sid = {s["Sid"]: s for s in statements(f"{name}Role")}
        listing = by_sid["ListResults"]
        assert listing["Action"] == ["s3:ListBucket"] and listing["Resource"] == {"GetAtt": "ResultsArn.Value"}
        (operator,) = listing["Condition"]
        assert operator == "StringLikeIfExists" and set(listing["Condition"][operator]) == {"s3:prefix"}
        assert reads_images(by_sid) == (name in ("Plan", "List", "Featurize", "Publish"))


def test_customer_managed_keys_are_granted_where_they_are_used():
    """S3 user guide, "Using server-side encryption with AWS KMS keys": reading needs kms:Decrypt; writing needs
    kms:GenerateDataKey, and with several parts also kms:Decrypt."""
    for role in [*(f"{name}Role" for name in FUNCTIONS), "PipelineRole"]:
        text = json.dumps(RESOURCES[role])
        by_sid = {s["Sid"]: s for s in statements(role)}
        assert by_sid["ResultsKey"]["Action"] == ["kms:Decrypt", "kms:GenerateDataKey"]
        assert by_sid["ResultsKey"]["Resource"] == {"Ref": "ResultsKmsKeyArn"} and '"If": ["HasResultsKey"' in text
        assert ("ReadKey" in by_sid) == reads_images(by_sid)
        if reads_images(by_sid):
            assert by_sid["ReadKey"]["Action"] == ["kms:Decrypt"] and by_sid["ReadKey"]["Resource"] == {"Ref": "ImageKmsKeyArn"}


def test_alarms_can_be_delivered():
    """CloudWatch user guide, "Using Amazon CloudWatch alarms", and SNS developer guide, "Encrypting messages published to
    Amazon SNS": services cannot publish to a topic that is encrypted with alias/aws/sns."""
    for name, resource in RESOURCES.items():
        if resource["Type"] == "AWS::SNS::Topic":
            assert "KmsMasterKeyId" not in resource["Properties"], name


def test_a_boundary_and_a_vpc_reach_every_role_and_function():
    for name, resource in RESOURCES.items():
        if resource["Type"] == "AWS::IAM::Role":
            boundary = resource["Properties"]["PermissionsBoundary"]
            assert boundary == {"If": ["HasBoundary", {"Ref": "PermissionsBoundaryArn"}, {"Ref": "AWS::NoValue"}]}, name
            assert ("Vpc" in {s["Sid"] for s in statements(name)}) == (name != "PipelineRole")
    assert TEMPLATE["Globals"]["Function"]["VpcConfig"]["If"][0] == "InVpc"


def test_everything_that_can_have_tags_has_them():
    without = {"AWS::S3::BucketPolicy", "AWS::IAM::Policy", "AWS::SQS::QueuePolicy", "AWS::CloudWatch::Dashboard", "AWS::Lambda::Url", "AWS::Glue::Database", "AWS::Glue::Table",
               "AWS::Lambda::Permission"}
    for name, resource in RESOURCES.items():
        if resource["Type"] == "AWS::Serverless::Function":
            continue  # Globals
        if resource["Type"].startswith("Custom::"):
            continue  # nothing that exists
        tags = resource["Properties"].get("Tags")
        expected = None if resource["Type"] in without else "application"
        assert (expected in json.dumps(tags)) if expected else tags is None, name
    assert TEMPLATE["Globals"]["Function"]["Tags"] == {"application": "pomona"}


def test_all_regions_are_allowed_unless_one_asks_for_europe_or_a_list():
    allowed = TEMPLATE["Parameters"]["AllowedRegions"]
    assert allowed["Default"] == "any"
    (assertion,) = TEMPLATE["Rules"]["Region"]["Assertions"]
    anywhere, listed, europe = assertion["Assert"]["Or"]
    assert anywhere == {"Contains": [{"Ref": "AllowedRegions"}, "any"]}
    assert listed == {"Contains": [{"Ref": "AllowedRegions"}, {"Ref": "AWS::Region"}]}
    regions = europe["And"][1]["Contains"][0]
    # London (eu-west-2) and Zurich (eu-central-2) are not in the European Union.
    assert all(r.startswith("eu-") for r in regions) and not {"eu-west-2", "eu-central-2"} & set(regions)


def test_uploads_reach_the_trigger_and_what_cannot_be_read_is_kept():
    queue, letters = RESOURCES["UploadQueue"]["Properties"], RESOURCES["UploadDeadLetters"]["Properties"]
    assert queue["RedrivePolicy"]["deadLetterTargetArn"] == {"GetAtt": "UploadDeadLetters.Arn"}
    assert queue["SqsManagedSseEnabled"] and letters["SqsManagedSseEnabled"]
    assert letters["MessageRetentionPeriod"] == 14 * 86_400
    trigger = RESOURCES["TriggerFunction"]["Properties"]
    # Lambda developer guide, "Using Lambda with Amazon SQS": six times the timeout plus the batching window, and at least
    # five receives, because throttled deliveries count.
    window = TEMPLATE["Parameters"]["UploadBatchSeconds"]["MaxValue"]
    assert queue["VisibilityTimeout"] >= 6 * trigger["Timeout"] + window
    assert queue["RedrivePolicy"]["maxReceiveCount"] == 10
    # Events are sent only where something listens.
    assert RESOURCES["ImageBucket"]["Properties"]["NotificationConfiguration"]["If"][0] == "RunOnUpload"
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


def test_the_rule_that_deletes_photos_deletes_no_output():
    """Photos of questions are outside of all outputs, whatever ResultPrefix is. Their name is not one that images have."""
    rules = RESOURCES["ResultsBucket"]["Properties"]["LifecycleConfiguration"]["Rules"]
    (photos,) = [rule["Prefix"] for rule in rules if "ExpirationInDays" in rule]
    assert RESOURCES["QueryFunction"]["Properties"]["Environment"]["Variables"]["PHOTOS"] == {"Sub": f"s3://${{Results.Value}}/{photos}"}
    (statement,) = [s for s in statements("QueryRole") if s["Sid"] == "Photos"]
    assert statement["Resource"] == {"Sub": f"${{ResultsArn.Value}}/{photos}*"}
    allowed = TEMPLATE["Parameters"]["ResultPrefix"]["AllowedPattern"]
    assert re.fullmatch(allowed, "pomona/") and re.fullmatch(allowed, "a/b/") and re.fullmatch(allowed, f"a/{photos}")
    assert not re.fullmatch(allowed, photos) and not re.fullmatch(allowed, f"{photos}a/")
    assert photos.startswith("pomona-")


def pomona_metrics():
    """The metrics that functions/host/src/metrics.rs writes: the pairs of Figures::counts, and the others by name."""
    text = (ROOT / "functions/host/src/metrics.rs").read_text().split("#[cfg(test)]")[0]
    counted = re.findall(r'\("(\w+)", self\.\1\)', text)
    others = re.findall(r'\.measure\("(\w+)"', text)
    assert len(counted) == 6 and len(others) == 5 and '"spent"' in text, (counted, others)
    return {*counted, *others, "spent"}


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
    assert set(alarms) == {"FailedAlarm", "TimedOutAlarm", "AbortedAlarm", "TriggerAlarm", "VacuumAlarm", "DeadLetterAlarm",
                           "RejectsAlarm", "SlowAlarm", "SpendingAlarm"}
    # Not only published versions cost money: the sum is that of all invocations.
    spending = alarms["SpendingAlarm"]["Properties"]
    assert (spending["MetricName"], spending["Dimensions"]) == ("spent", [{"Name": "Stack", "Value": {"Ref": "AWS::StackName"}}])
    assert TEMPLATE["Globals"]["Function"]["Environment"]["Variables"]["POMONA_STACK"] == {"Ref": "AWS::StackName"}
    for alarm in alarms.values():
        assert alarm["Condition"] == "HasAlarmEmail" and alarm["Properties"]["AlarmActions"] == [{"Ref": "Alerts"}]
        (dimension,) = alarm["Properties"]["Dimensions"]
        value = dimension["Value"].get("Sub", "")
        watched.append((alarm["Properties"]["Namespace"], alarm["Properties"]["MetricName"], dimension["Name"], value.replace("${AWS::StackName}", "StackName")))
    ours = [metric for metric in watched if metric[0] == "Pomona"]
    assert len(ours) >= 10
    for _, metric, dimension, value in ours:
        assert metric in pomona_metrics() and dimension == ("Stack" if metric == "spent" else "Function")
        if dimension == "Stack":
            continue
        assert value.removeprefix("StackName-") in functions, value
    assert RESOURCES["SlowAlarm"]["Properties"]["Threshold"] == 0.9 * TEMPLATE["Globals"]["Function"]["Timeout"] * 1000


def test_the_state_machine_has_the_name_that_status_looks_for():
    assert RESOURCES["Pipeline"]["Properties"]["Name"] == {"Sub": "${AWS::StackName}-pipeline"}
    assert 'PIPELINE: &str = "-pipeline"' in (ROOT / "src/aws/executions.rs").read_text()


def test_the_estimate_knows_the_memory_of_the_functions():
    text = "".join((ROOT / f"src/cost/{name}.rs").read_text() for name in ("estimate", "schedule"))
    memory = {name: int(mb.replace("_", "")) for name, mb in re.findall(r"const (\w+)_MB: f64 = ([\d_]+)\.0;", text)}
    of = lambda name: RESOURCES[f"{name}Function"]["Properties"]["MemorySize"]  # noqa: E731
    assert {of("Plan"), of("List"), of("Project")} == {memory["PLAN"]}
    assert (of("Publish"), of("Reduce")) == (memory["PUBLISH"], memory["REDUCE"])
    featurize = TEMPLATE["Parameters"]["FeaturizeMemory"]["Default"]
    assert of("Featurize") == {"Ref": "FeaturizeMemory"} and f"Deployment {{ memory: {featurize:_}," in text
    assert f"concurrency: {TEMPLATE['Parameters']['MaxConcurrency']['Default']}, account" in text


def test_a_program_that_does_not_start_fails_the_deployment():
    """All functions are one package, so one of them answers for all. test_e2e.py deploys a package for another processor."""
    packages = {r["Properties"].get("CodeUri") for r in RESOURCES.values() if r["Type"] == "AWS::Serverless::Function"}
    assert packages == {None} and TEMPLATE["Globals"]["Function"]["CodeUri"] == "functions/lambda"
    assert not any("Architectures" in r["Properties"] for r in RESOURCES.values() if r["Type"] == "AWS::Serverless::Function")
    asks = RESOURCES["ProgramStarts"]
    assert asks["Properties"]["ServiceToken"] == {"Ref": "PlanFunction.Alias"}
    # A new version for each package: CloudFormation asks only if a property changes.
    assert asks["Properties"]["Version"] == {"Ref": "PlanFunction.Version"}
    # By default, CloudFormation waits for an hour. Lambda repeats a throttled call for longer than a minute.
    assert 60 < asks["Properties"]["ServiceTimeout"] <= 300
    # To the deletion of the resource, a program that does not start cannot answer either.
    assert asks["DeletionPolicy"] == asks["UpdateReplacePolicy"] == "Retain"
