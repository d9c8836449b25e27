"""Shows that the strict local AWS refuses what AWS refuses: without a build, with functions of a few lines.

Each test also has the case that is allowed, so that a proxy that refuses everything would fail too.
"""

import contextlib
import io
import json
import re
import time
import urllib.error
import urllib.request
import zipfile

import botocore.exceptions
import pytest
from iam import ACCOUNT, Ask, Roles, access_key
from local_aws import REGION, ROOT, LocalAws
from strict_proxy import Rate, StrictProxy

BUCKET = "strict"
ARN = f"arn:aws:s3:::{BUCKET}"
LIMIT = 3  # functions at the same time

# A function of the runtime provided.al2023 that does what its event says, with the credentials of its role.
BOOTSTRAP = '''#!/usr/bin/env python3
import json, os, time, urllib.error, urllib.request, uuid
API = f"http://{os.environ['AWS_LAMBDA_RUNTIME_API']}/2018-06-01/runtime"
SIGNED = {"Authorization": f"AWS4-HMAC-SHA256 Credential={os.environ['AWS_ACCESS_KEY_ID']}/20260101/us-east-1/s3/aws4_request, "
                           "SignedHeaders=host, Signature=0"}

def s3(method, place, body=None):
    with urllib.request.urlopen(urllib.request.Request(f"{os.environ['AWS_ENDPOINT_URL']}/{place}", body, SIGNED, method=method)) as got:
        return got.read().decode()

def exists(place):
    try:
        s3("GET", place)
        return True
    except urllib.error.HTTPError:
        return False

def do(event):
    if "count" in event:
        s3("PUT", f"strict/open/count/{event['count']}/{uuid.uuid4()}", b"")
    time.sleep(event.get("sleep", 0))
    while "until" in event and not exists(f"strict/{event['until']}"):
        time.sleep(0.1)
    if "unless" in event:
        s3("GET", f"strict/{event['unless']}")
    return {"big": "x" * event.get("big", 0)}

while True:
    with urllib.request.urlopen(f"{API}/invocation/next") as got:
        call, event = got.headers["Lambda-Runtime-Aws-Request-Id"], json.loads(got.read())
    try:
        answer, kind = do(event), "response"
    except urllib.error.HTTPError as error:
        answer, kind = {"errorType": "Store.Denied" if error.code == 403 else "Store.NotFound", "errorMessage": str(error)}, "error"
    urllib.request.urlopen(urllib.request.Request(f"{API}/invocation/{call}/{kind}", json.dumps(answer).encode(), method="POST")).read()
'''


class Account:
    """Roles, one function and state machines in a strict local AWS."""

    def __init__(self, aws, proxy):
        self.aws, self.proxy = aws, proxy
        self.iam, self.root, self.sfn = aws.client("iam"), aws.client("s3"), aws.client("stepfunctions")
        self.root.create_bucket(Bucket=BUCKET)

    def role(self, name, *statements):
        """Makes a role with these statements (action, resource, more), or replaces its statements."""
        trust = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": {"Service": "lambda.amazonaws.com"}, "Action": "sts:AssumeRole"}]}
        with contextlib.suppress(self.iam.exceptions.EntityAlreadyExistsException):
            self.iam.create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps(trust))
        document = {"Version": "2012-10-17", "Statement": [
            {"Sid": f"S{i}", "Effect": "Allow", "Action": s[0], "Resource": s[1], **(s[2] if len(s) > 2 else {})} for i, s in enumerate(statements)]}
        if statements:
            self.iam.put_role_policy(RoleName=name, PolicyName="inline", PolicyDocument=json.dumps(document))
        else:
            self.iam.delete_role_policy(RoleName=name, PolicyName="inline")
        self.proxy.learn(self.aws)
        return f"arn:aws:iam::{ACCOUNT}:role/{name}"

    def client(self, role, service="s3"):
        return self.aws.client(service, self.proxy.endpoint, access_key(role), attempts=1)

    def put(self, key, body=b"x", **more):
        self.root.put_object(Bucket=BUCKET, Key=key, Body=body, **more)

    def keys(self, prefix):
        return [o["Key"] for o in self.root.list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", [])]

    def machine(self, name, role, states, **settings):
        definition = json.dumps({"StartAt": next(iter(states)), "States": states})
        with contextlib.suppress(self.sfn.exceptions.StateMachineDoesNotExist):
            self.sfn.update_state_machine(stateMachineArn=machine_arn(name), definition=definition, roleArn=role, **settings)
            return machine_arn(name)
        return self.sfn.create_state_machine(name=name, definition=definition, roleArn=role, **settings)["stateMachineArn"]

    def wait(self, arn):
        for _ in range(600):
            execution = self.sfn.describe_execution(executionArn=arn)
            if execution["status"] != "RUNNING":
                return execution
            time.sleep(0.1)
        raise AssertionError("still running")

    def run(self, machine, value=None):
        return self.wait(self.sfn.start_execution(stateMachineArn=machine, input=json.dumps(value or {}))["executionArn"])


def machine_arn(name):
    return f"arn:aws:states:{REGION}:{ACCOUNT}:stateMachine:{name}"


FUNCTION = f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:worker"
LOG = f"arn:aws:logs:{REGION}:{ACCOUNT}:log-group:/strict/worker:*"
WRITE_LOG = (["logs:CreateLogStream", "logs:PutLogEvents"], LOG)


def call(payload, **more):
    return {"Type": "Task", "Resource": "arn:aws:states:::lambda:invoke",
            "Parameters": {"FunctionName": FUNCTION, "Payload": payload}, "OutputPath": "$.Payload", "End": True, **more}


def each(task, **more):
    """A distributed map over the lines of strict/work/items.jsonl."""
    return {"Type": "Map", "Label": "Each", "MaxConcurrency": 100, "ItemReader": {
        "Resource": "arn:aws:states:::s3:getObject", "ReaderConfig": {"InputType": "JSONL"},
        "Parameters": {"Bucket": BUCKET, "Key": "work/items.jsonl"}},
        "ItemProcessor": {"ProcessorConfig": {"Mode": "DISTRIBUTED", "ExecutionType": "STANDARD"}, "StartAt": "One", "States": {"One": task}},
        "End": True, **more}


def of_map(name):
    """What the role of a state machine with a distributed map needs."""
    execution = f"arn:aws:states:{REGION}:{ACCOUNT}:execution:{name}"
    return [("states:StartExecution", machine_arn(name)),
            (["states:DescribeExecution", "states:StopExecution"], [f"{execution}:*", f"{execution}/*"]),
            ("lambda:InvokeFunction", FUNCTION), ("s3:GetObject", f"{ARN}/work/*")]


@pytest.fixture(scope="module")
def account():
    proxy = StrictProxy()
    with LocalAws(proxy, concurrency=LIMIT) as aws:
        account = Account(aws, proxy)
        role = account.role("worker", WRITE_LOG, (["s3:GetObject", "s3:PutObject"], f"{ARN}/open/*"))
        package = io.BytesIO()
        with zipfile.ZipFile(package, "w") as archive:
            entry = zipfile.ZipInfo("bootstrap")
            entry.external_attr = 0o755 << 16
            archive.writestr(entry, BOOTSTRAP)
        aws.client("lambda").create_function(
            FunctionName="worker", Runtime="provided.al2023", Handler="bootstrap", Role=role, Timeout=20,
            Code={"ZipFile": package.getvalue()}, LoggingConfig={"LogFormat": "JSON", "LogGroup": "/strict/worker"})
        yield account
    proxy.stop()


@pytest.fixture(autouse=True)
def quiet(account):
    account.proxy.refused.clear()
    yield
    account.proxy.conflicts, account.proxy.deadline, account.proxy.copies = 0.0, lambda function: None, lambda: 1


@contextlib.contextmanager
def refused(code, status=None):
    with pytest.raises(botocore.exceptions.ClientError) as caught:
        yield
    error = caught.value.response
    assert error["Error"]["Code"] == code, error
    assert status is None or error["ResponseMetadata"]["HTTPStatusCode"] == status, error


# IAM


def test_a_role_reads_and_writes_what_its_policies_say(account):
    s3 = account.client(account.role("reader", ("s3:GetObject", f"{ARN}/a/*"), ("s3:PutObject", f"{ARN}/b/*")))
    account.put("a/1")
    account.put("b/1")
    assert s3.get_object(Bucket=BUCKET, Key="a/1")["Body"].read() == b"x"
    s3.put_object(Bucket=BUCKET, Key="b/2", Body=b"y")
    with refused("AccessDenied", 403):
        s3.get_object(Bucket=BUCKET, Key="b/1")
    with refused("AccessDenied", 403):
        s3.put_object(Bucket=BUCKET, Key="a/2", Body=b"y")
    with refused("AccessDenied", 403):
        s3.delete_object(Bucket=BUCKET, Key="b/1")
    with refused("403"):
        s3.head_object(Bucket=BUCKET, Key="b/1")
    assert account.keys("a/") == ["a/1"] and account.keys("b/") == ["b/1", "b/2"]
    assert {ask.action for _, ask in account.proxy.refused} == {"s3:GetObject", "s3:PutObject", "s3:DeleteObject"}


def test_a_policy_that_is_changed_counts_from_the_next_deployment(account):
    account.put("a/1")
    s3 = account.client(account.role("changed", ("s3:GetObject", f"{ARN}/a/*")))
    s3.get_object(Bucket=BUCKET, Key="a/1")
    account.role("changed", ("s3:GetObject", f"{ARN}/b/*"))
    with refused("AccessDenied"):
        s3.get_object(Bucket=BUCKET, Key="a/1")


def test_managed_policies_count_and_a_deny_wins(account):
    role = account.role("managed", ("s3:PutObject", f"{ARN}/a/*"))
    document = {"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "Action": "s3:GetObject", "Resource": f"{ARN}/*"},
        {"Effect": "Deny", "NotAction": "s3:PutObject", "Resource": f"{ARN}/secret/*"}]}
    policy = account.iam.create_policy(PolicyName="attached", PolicyDocument=json.dumps(document))["Policy"]["Arn"]
    account.iam.attach_role_policy(RoleName="managed", PolicyArn=policy)
    account.proxy.learn(account.aws)
    for key in ("a/1", "secret/1"):
        account.put(key)
    account.client(role).get_object(Bucket=BUCKET, Key="a/1")
    with refused("AccessDenied"):
        account.client(role).get_object(Bucket=BUCKET, Key="secret/1")


def test_a_permissions_boundary_limits_a_role(account):
    document = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": f"{ARN}/a/*"}]}
    policy = account.iam.create_policy(PolicyName="boundary", PolicyDocument=json.dumps(document))["Policy"]["Arn"]
    role = account.role("bounded", ("s3:GetObject", f"{ARN}/*"))
    for key in ("a/1", "b/1"):
        account.put(key)
        account.client(role).get_object(Bucket=BUCKET, Key=key)
    account.iam.put_role_permissions_boundary(RoleName="bounded", PermissionsBoundary=policy)
    account.proxy.learn(account.aws)
    account.client(role).get_object(Bucket=BUCKET, Key="a/1")
    with refused("AccessDenied"):
        account.client(role).get_object(Bucket=BUCKET, Key="b/1")


@pytest.mark.parametrize("more, code", [
    ([], "AccessDenied"),
    ([("s3:ListBucket", ARN)], "NoSuchKey"),
    ([("s3:ListBucket", ARN, {"Condition": {"StringLike": {"s3:prefix": "a/*"}}})], "AccessDenied"),
    ([("s3:ListBucket", ARN, {"Condition": {"StringLikeIfExists": {"s3:prefix": "a/*"}}})], "NoSuchKey"),
])
def test_a_missing_key_is_404_only_for_those_who_may_list(account, more, code):
    s3 = account.client(account.role("looker", ("s3:GetObject", f"{ARN}/a/*"), *more))
    with refused(code, 404 if code == "NoSuchKey" else 403):
        s3.get_object(Bucket=BUCKET, Key="a/missing")
    with refused("404" if code == "NoSuchKey" else "403"):
        s3.head_object(Bucket=BUCKET, Key="a/missing")


def test_a_listing_is_held_to_its_prefix(account):
    s3 = account.client(account.role("lister", ("s3:ListBucket", ARN, {"Condition": {"StringLike": {"s3:prefix": "a/*"}}})))
    account.put("a/1")
    assert s3.list_objects_v2(Bucket=BUCKET, Prefix="a/")["KeyCount"] >= 1
    for more in ({}, {"Prefix": "b/"}, {"Prefix": ""}):
        with refused("AccessDenied"):
            s3.list_objects_v2(Bucket=BUCKET, **more)


def test_copies_batches_parts_and_conditions_need_all_their_permissions(account):
    account.put("a/1")
    full = [("s3:GetObject", f"{ARN}/a/*"), ("s3:PutObject", f"{ARN}/b/*"), ("s3:DeleteObject", f"{ARN}/b/*"), ("s3:GetObject", f"{ARN}/b/*"),
            ("s3:AbortMultipartUpload", f"{ARN}/b/*")]
    s3 = account.client(account.role("worker-2", *full))
    copy = lambda: s3.copy_object(Bucket=BUCKET, Key="b/copy", CopySource={"Bucket": BUCKET, "Key": "a/1"})  # noqa: E731
    etag = copy()["CopyObjectResult"]["ETag"]
    batch = lambda *keys: s3.delete_objects(Bucket=BUCKET, Delete={"Objects": [{"Key": key} for key in keys]})  # noqa: E731
    with refused("AccessDenied"):
        batch("b/copy", "a/1")
    s3.put_object(Bucket=BUCKET, Key="b/copy", Body=b"new", IfMatch=etag)
    etag = s3.get_object(Bucket=BUCKET, Key="b/copy")["ETag"]
    account.role("worker-2", *full[1:3], full[4])
    with refused("AccessDenied"):
        copy()
    # "How to perform conditional deletes": with an etag, s3:GetObject is needed too.
    with refused("AccessDenied"):
        s3.delete_object(Bucket=BUCKET, Key="b/copy", IfMatch=etag)
    s3.delete_object(Bucket=BUCKET, Key="b/copy")
    upload = s3.create_multipart_upload(Bucket=BUCKET, Key="b/parts")["UploadId"]
    s3.upload_part(Bucket=BUCKET, Key="b/parts", UploadId=upload, PartNumber=1, Body=b"x")
    account.role("worker-2", *full[:4])
    with refused("AccessDenied"):
        s3.abort_multipart_upload(Bucket=BUCKET, Key="b/parts", UploadId=upload)


def test_the_policy_of_a_bucket_counts(account):
    role = account.role("guest", ("s3:GetObject", f"{ARN}/*"))
    account.put("closed/1")
    account.client(role).get_object(Bucket=BUCKET, Key="closed/1")
    policy = {"Version": "2012-10-17", "Statement": [
        {"Effect": "Deny", "Principal": "*", "Action": "s3:*", "Resource": [ARN, f"{ARN}/*"], "Condition": {"Bool": {"aws:SecureTransport": "false"}}},
        {"Effect": "Deny", "Principal": {"AWS": role}, "Action": "s3:GetObject", "Resource": f"{ARN}/closed/*"}]}
    account.root.put_bucket_policy(Bucket=BUCKET, Policy=json.dumps(policy))
    account.proxy.learn(account.aws)
    try:
        with refused("AccessDenied"):
            account.client(role).get_object(Bucket=BUCKET, Key="closed/1")
    finally:
        account.root.delete_bucket_policy(Bucket=BUCKET)
        account.proxy.learn(account.aws)


def test_unknown_credentials_and_unknown_operations_are_refused(account):
    account.put("a/1")
    with refused("AccessDenied"):
        account.client("arn:aws:iam::000000000000:role/nobody").get_object(Bucket=BUCKET, Key="a/1")
    role = account.role("all", ("s3:*", "*"))
    account.client(role).get_object(Bucket=BUCKET, Key="a/1")
    with refused("NotImplemented", 501):
        account.client(role).get_object_acl(Bucket=BUCKET, Key="a/1")


def test_other_services_are_decided_too(account):
    queue = account.aws.client("sqs").create_queue(QueueName="other")["QueueUrl"]
    role = account.role("caller", ("states:DescribeExecution", "*"), ("sqs:SendMessage", f"arn:aws:sqs:{REGION}:{ACCOUNT}:mine"),
                        ("events:PutEvents", "*"))
    with refused("ExecutionDoesNotExist"):
        account.client(role, "stepfunctions").describe_execution(executionArn=machine_arn("m").replace("stateMachine", "execution") + ":x")
    with refused("AccessDeniedException"):
        account.client(role, "stepfunctions").start_execution(stateMachineArn=machine_arn("m"))
    with refused("AccessDeniedException"):
        account.client(role, "sqs").send_message(QueueUrl=queue, MessageBody="x")
    entry = {"Source": "pomona", "DetailType": "VersionPublished", "Detail": "{}"}
    assert account.client(role, "events").put_events(Entries=[entry])["FailedEntryCount"] == 0
    account.role("caller", ("states:DescribeExecution", "*"))
    with refused("AccessDeniedException"):
        account.client(role, "events").put_events(Entries=[entry])


# KMS, archived objects


def test_a_bucket_with_a_key_needs_the_key_of_the_role_and_of_the_policy(account):
    kms = account.aws.client("kms")
    policy = lambda principal: json.dumps({"Version": "2012-10-17", "Statement": [  # noqa: E731
        {"Sid": "Owner", "Effect": "Allow", "Principal": {"AWS": principal}, "Action": "kms:*", "Resource": "*"}]})
    arn = kms.create_key(Policy=policy(f"arn:aws:iam::{ACCOUNT}:root"))["KeyMetadata"]["Arn"]
    account.root.create_bucket(Bucket="sealed")
    account.root.put_bucket_encryption(Bucket="sealed", ServerSideEncryptionConfiguration={"Rules": [
        {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": arn}}]})
    account.root.put_object(Bucket="sealed", Key="1", Body=b"x")
    objects = (["s3:GetObject", "s3:PutObject"], "arn:aws:s3:::sealed/*")
    s3 = account.client(account.role("sealer", objects))
    with refused("AccessDenied", 403):
        s3.get_object(Bucket="sealed", Key="1")
    with refused("AccessDenied", 403):
        s3.put_object(Bucket="sealed", Key="2", Body=b"x")
    account.role("sealer", objects, ("kms:Decrypt", arn))
    s3.get_object(Bucket="sealed", Key="1")
    with refused("AccessDenied", 403):
        s3.put_object(Bucket="sealed", Key="2", Body=b"x")
    account.role("sealer", objects, (["kms:Decrypt", "kms:GenerateDataKey"], arn))
    s3.put_object(Bucket="sealed", Key="2", Body=b"x")
    kms.put_key_policy(KeyId=arn, PolicyName="default", Policy=policy(f"arn:aws:iam::{ACCOUNT}:role/other"))
    account.proxy.learn(account.aws)
    with refused("AccessDenied", 403):
        s3.get_object(Bucket="sealed", Key="1")


def test_an_archived_object_has_an_error_of_its_own(account):
    s3 = account.client(account.role("archivist", ("s3:GetObject", f"{ARN}/*")))
    for name in ("GLACIER", "DEEP_ARCHIVE", "STANDARD_IA"):
        account.put(f"old/{name}", StorageClass=name)
    s3.get_object(Bucket=BUCKET, Key="old/STANDARD_IA")
    for name in ("GLACIER", "DEEP_ARCHIVE"):
        with refused("InvalidObjectState", 403):
            s3.get_object(Bucket=BUCKET, Key=f"old/{name}")


# Quotas and faults of S3, Step Functions and EventBridge


def test_s3_slows_down_above_the_rate_of_a_prefix(account):
    s3 = account.client(account.role("hasty", ("s3:*", f"{ARN}/*")))
    for key in ("hot/1", "cold/1"):
        account.put(key)
    gets, puts = account.proxy.gets, account.proxy.puts
    assert (gets.per_second, puts.per_second) == (5_500, 3_500)
    account.proxy.gets, account.proxy.puts = Rate(0.001, 3), Rate(0.001, 1)
    try:
        for _ in range(3):
            s3.get_object(Bucket=BUCKET, Key="hot/1")
        with refused("SlowDown", 503):
            s3.get_object(Bucket=BUCKET, Key="hot/1")
        s3.get_object(Bucket=BUCKET, Key="cold/1")
        s3.put_object(Bucket=BUCKET, Key="hot/2", Body=b"")
        with refused("SlowDown", 503):
            s3.delete_object(Bucket=BUCKET, Key="hot/2")
    finally:
        account.proxy.gets, account.proxy.puts = gets, puts


def test_conditional_puts_may_conflict_and_others_do_not(account):
    s3 = account.client(account.role("writer", ("s3:*", f"{ARN}/*")))
    account.proxy.conflicts = 1.0
    s3.put_object(Bucket=BUCKET, Key="once/1", Body=b"")
    with refused("ConditionalRequestConflict", 409):
        s3.put_object(Bucket=BUCKET, Key="once/2", Body=b"", IfNoneMatch="*")
    assert account.keys("once/") == ["once/1"]
    account.proxy.conflicts = 0.0
    s3.put_object(Bucket=BUCKET, Key="once/2", Body=b"", IfNoneMatch="*")
    with refused("PreconditionFailed", 412):
        s3.put_object(Bucket=BUCKET, Key="once/2", Body=b"", IfNoneMatch="*")


def test_a_map_run_is_described_once_a_second_and_a_large_event_is_refused(account):
    arn = f"arn:aws:states:{REGION}:{ACCOUNT}:mapRun:m/Each:x"
    sfn = account.aws.client("stepfunctions", account.proxy.endpoint, attempts=1)
    assert (account.proxy.map_runs.per_second, account.proxy.map_runs.burst) == (1, 1)
    account.proxy.map_runs = Rate(0.001, 1)
    with refused("ResourceNotFound"):
        sfn.describe_map_run(mapRunArn=arn)
    with refused("ThrottlingException"):
        sfn.describe_map_run(mapRunArn=arn)
    account.proxy.map_runs = Rate(1)
    events = account.aws.client("events", account.proxy.endpoint)
    entry = lambda size: {"Source": "pomona", "DetailType": "x", "Detail": json.dumps({"x": "x" * size})}  # noqa: E731
    events.put_events(Entries=[entry(1000)])
    with refused("ValidationException"):
        events.put_events(Entries=[entry(256 * 1024)])


# Functions


def test_a_function_has_the_permissions_of_its_role(account):
    invoke = lambda event: json.loads(account.aws.client("lambda").invoke(FunctionName="worker", Payload=json.dumps(event))["Payload"].read())  # noqa: E731
    account.put("open/1")
    account.put("shut/1")
    assert invoke({"unless": "open/1"}) == {"big": ""}
    assert invoke({"unless": "shut/1"})["errorType"] == "Store.Denied"
    # It may not list, so what is missing is denied.
    assert invoke({"unless": "open/missing"})["errorType"] == "Store.Denied"


def test_logs_are_written_for_the_role(account):
    logs, function = account.aws.client("logs"), account.aws.client("lambda")
    streams = lambda: len(logs.describe_log_streams(logGroupName="/strict/worker", limit=50)["logStreams"])  # noqa: E731
    function.invoke(FunctionName="worker", Payload=b"{}")
    before = streams()
    account.role("worker", ("s3:*", f"{ARN}/open/*"))
    function.invoke(FunctionName="worker", Payload=b"{}")
    assert streams() == before > 0
    account.role("worker", WRITE_LOG, (["s3:GetObject", "s3:PutObject"], f"{ARN}/open/*"))
    function.invoke(FunctionName="worker", Payload=b"{}")
    assert streams() == before + 1


def test_a_function_is_killed_at_its_deadline(account):
    role = account.role("machine", ("lambda:InvokeFunction", FUNCTION))
    account.proxy.deadline = lambda function: 1
    caught = call({"sleep": 5})
    failed = account.run(account.machine("slow", role, {"Call": caught}))
    assert failed["status"] == "FAILED" and failed["error"] == "Sandbox.Timedout", failed
    account.proxy.deadline = lambda function: None
    assert account.run(account.machine("slow", role, {"Call": call({"sleep": 0})}))["status"] == "SUCCEEDED"


# State machines


def retry(*errors, attempts=3, **more):
    return {"Retry": [{"ErrorEquals": list(errors), "IntervalSeconds": 1, "MaxAttempts": attempts, "BackoffRate": 2, "JitterStrategy": "FULL", **more}]}


def items(account, *values):
    account.put("work/items.jsonl", "".join(json.dumps(value) + "\n" for value in values).encode())


def test_more_calls_than_the_account_may_have_are_throttled(account):
    """Each call lasts until open/go is there, so that the later ones find no place."""
    items(account, *({"until": "open/go"} for _ in range(LIMIT + 2)))
    role = account.role("map", *of_map("throttled"))

    def run(task):
        account.root.delete_object(Bucket=BUCKET, Key="open/go")
        before = account.proxy.throttled["TooManyRequestsException"]
        machine = account.machine("throttled", role, {"Each": each(task, ToleratedFailurePercentage=99)})
        arn = account.sfn.start_execution(stateMachineArn=machine, input="{}")["executionArn"]
        while account.proxy.throttled["TooManyRequestsException"] < before + 2:
            time.sleep(0.1)
        account.put("open/go")
        assert account.wait(arn)["status"] == "SUCCEEDED"
        (run,) = account.sfn.list_map_runs(executionArn=arn)["mapRuns"]
        children = account.sfn.list_executions(mapRunArn=run["mapRunArn"])["executions"]
        return [account.sfn.describe_execution(executionArn=child["executionArn"]).get("error") for child in children]

    task = lambda **more: call({"until.$": "$.until"}, **more)  # noqa: E731
    # A retrier for all errors that AWS names at other times does not match.
    errors = run(task(**retry("Lambda.ServiceException", "Lambda.Unknown")))
    assert sorted(errors, key=str) == ["Lambda.TooManyRequestsException"] * 2 + [None] * LIMIT
    assert run(task(**retry("Lambda.TooManyRequestsException", attempts=100, MaxDelaySeconds=1))) == [None] * (LIMIT + 2)


def test_a_retry_waits_at_most_max_delay(account):
    """Five times 1,000,000 s would be longer than the test."""
    account.root.delete_object(Bucket=BUCKET, Key="open/later")
    role = account.role("machine", ("lambda:InvokeFunction", FUNCTION))
    task = call({"unless": "open/later", "count": "retries"}, **retry("Store.Denied", attempts=3, IntervalSeconds=1_000_000, MaxDelaySeconds=1))
    before = len(account.keys("open/count/retries/"))
    assert account.run(account.machine("patient", role, {"Call": task}))["error"] == "Store.Denied"
    assert len(account.keys("open/count/retries/")) == before + 4


def test_states_carry_at_most_256_kib_and_no_catch_helps(account):
    role = account.role("machine", ("lambda:InvokeFunction", FUNCTION))
    catch = {"Catch": [{"ErrorEquals": ["States.ALL"], "Next": "Caught"}], "Next": "Caught"}
    states = lambda size: {"Call": {k: v for k, v in call({"big": size}, **catch).items() if k != "End"}, "Caught": {"Type": "Succeed"}}  # noqa: E731
    assert account.run(account.machine("big", role, states(200_000)))["status"] == "SUCCEEDED"
    failed = account.run(account.machine("big", role, states(270_000)))
    assert (failed["status"], failed["error"]) == ("FAILED", "States.DataLimitExceeded")
    with refused("InvalidExecutionInput"):
        account.sfn.start_execution(stateMachineArn=machine_arn("big"), input=json.dumps({"x": "x" * 270_000}))


def test_the_results_of_a_map_need_a_writer_above_256_kib(account):
    items(account, *({} for _ in range(3)))
    role = account.role("map", *of_map("results"))
    task = call({"big": 100_000})
    failed = account.run(account.machine("results", role, {"Each": each(task)}))
    assert failed["error"] == "States.DataLimitExceeded", failed
    writer = {"ResultWriter": {"Resource": "arn:aws:states:::s3:putObject", "Parameters": {"Bucket": BUCKET, "Prefix": "out"}}}
    denied = account.run(account.machine("results", role, {"Each": each(task, **writer)}))
    assert denied["error"] == "States.ResultWriterFailed", denied
    account.role("map", *of_map("results"), (
        ["s3:PutObject", "s3:GetObject", "s3:ListMultipartUploadParts", "s3:AbortMultipartUpload"], f"{ARN}/out/*"))
    done = account.run(account.machine("results", role, {"Each": each(task, **writer)}))
    assert done["status"] == "SUCCEEDED", done
    written = json.loads(done["output"])["ResultWriterDetails"]
    manifest = json.loads(account.root.get_object(Bucket=BUCKET, Key=written["Key"])["Body"].read())
    (file,) = manifest["ResultFiles"]["SUCCEEDED"]
    assert len(json.loads(account.root.get_object(Bucket=BUCKET, Key=file["Key"])["Body"].read())) == 3


@pytest.mark.parametrize("missing, error", [
    (0, "States.Runtime"), (1, "States.Runtime"), (2, "States.ExceedToleratedFailureThreshold"), (3, "States.ItemReaderFailed"), (None, None)])
def test_a_state_machine_needs_its_permissions(account, missing, error):
    items(account, {})
    role = account.role("map", *(statement for i, statement in enumerate(of_map("denied")) if i != missing))
    execution = account.run(account.machine("denied", role, {"Each": each(call({}))}))
    assert execution.get("error") == error, execution


def test_a_state_machine_with_logs_needs_their_delivery(account):
    role = account.role("machine")
    states = {"Done": {"Type": "Succeed"}}
    logging = {"loggingConfiguration": {"level": "ERROR", "destinations": [{"cloudWatchLogsLogGroup": {"logGroupArn": LOG}}]}}
    assert account.run(account.machine("logs", role, states, **logging))["error"] == "AccessDeniedException"
    account.role("machine", (["logs:CreateLogDelivery", "logs:GetLogDelivery", "logs:UpdateLogDelivery", "logs:DeleteLogDelivery",
                              "logs:ListLogDeliveries", "logs:PutResourcePolicy", "logs:DescribeResourcePolicies", "logs:DescribeLogGroups"], "*"))
    assert account.run(machine_arn("logs"))["status"] == "SUCCEEDED"


def test_a_name_is_used_again_only_for_the_same_running_execution(account):
    account.root.delete_object(Bucket=BUCKET, Key="open/end")
    role = account.role("machine", ("lambda:InvokeFunction", FUNCTION))
    machine = account.machine("named", role, {"Call": call({"until": "open/end"})})
    start = lambda value: account.sfn.start_execution(stateMachineArn=machine, name="once", input=json.dumps(value))["executionArn"]  # noqa: E731
    arn = start({})
    assert start({}) == arn
    with refused("ExecutionAlreadyExists"):
        start({"other": 1})
    account.put("open/end")
    account.wait(arn)
    with refused("ExecutionAlreadyExists"):
        start({})


# Redrive


def test_a_redriven_map_runs_only_the_items_that_failed(account):
    account.root.delete_object(Bucket=BUCKET, Key="open/lifted")
    account.put("open/1")
    items(account, *({"unless": "open/1", "count": "good"} for _ in range(3)), {"unless": "open/lifted", "count": "bad"})
    statements = [*of_map("redriven")]
    role = account.role("map", *statements)
    task = call({"unless.$": "$.unless", "count.$": "$.count"}, **retry("Lambda.TooManyRequestsException", attempts=100, MaxDelaySeconds=1))
    states = {"First": {**call({"count": "first"}), "Next": "Each", "ResultPath": None}, "Each": {**each(task), "ResultPath": None}}
    del states["First"]["End"], states["First"]["OutputPath"]
    count = lambda: {name: len(account.keys(f"open/count/{name}/")) for name in ("first", "good", "bad")}  # noqa: E731
    failed = account.run(account.machine("redriven", role, states), {"keep": 1})
    assert failed["error"] == "States.ExceedToleratedFailureThreshold" and failed["redriveStatus"] == "REDRIVABLE"
    assert count() == {"first": 1, "good": 3, "bad": 1}

    redrive = lambda: account.sfn.redrive_execution(executionArn=failed["executionArn"])  # noqa: E731
    redrive()
    again = account.wait(failed["executionArn"])
    assert again["error"] == "States.Runtime" and "states:RedriveExecution" in again["cause"], again
    account.role("map", *statements, ("states:RedriveExecution", f"arn:aws:states:{REGION}:{ACCOUNT}:execution:redriven/Each:*"))
    redrive()
    again = account.wait(failed["executionArn"])
    assert again["error"] == "States.ExceedToleratedFailureThreshold"
    account.put("open/lifted")
    redrive()
    done = account.wait(failed["executionArn"])
    assert done["status"] == "SUCCEEDED" and json.loads(done["output"]) == {"keep": 1}, done
    assert count() == {"first": 1, "good": 3, "bad": 3} and done["redriveCount"] == 3
    with refused("ExecutionNotRedrivable"):
        redrive()
    events = [e["type"] for e in account.sfn.get_execution_history(executionArn=failed["executionArn"])["events"]]
    assert events.count("ExecutionRedriven") == 3 and events.count("MapStateEntered") == events.count("TaskStateEntered") == 1


def test_a_redriven_fail_state_fails_again(account):
    account.root.delete_object(Bucket=BUCKET, Key="open/caught")
    role = account.role("machine", ("lambda:InvokeFunction", FUNCTION))
    states = {"Call": call({"unless": "open/caught"}, Catch=[{"ErrorEquals": ["States.ALL"], "ResultPath": "$.error", "Next": "Failed"}]),
              "Failed": {"Type": "Fail", "ErrorPath": "$.error.Error", "CausePath": "$.error.Cause"}}
    failed = account.run(account.machine("caught", role, states))
    assert failed["error"] == "Store.Denied"
    account.put("open/caught")
    account.sfn.redrive_execution(executionArn=failed["executionArn"])
    again = account.wait(failed["executionArn"])
    assert again["error"] == "Store.Denied" and again["redriveCount"] == 1
    del states["Call"]["Catch"], states["Failed"]
    account.root.delete_object(Bucket=BUCKET, Key="open/caught")
    failed = account.run(account.machine("caught", role, states))
    account.put("open/caught")
    account.sfn.redrive_execution(executionArn=failed["executionArn"])
    assert account.wait(failed["executionArn"])["status"] == "SUCCEEDED"


# Events


def test_events_reach_a_queue_by_its_policy_and_more_than_once(account):
    events, sqs = account.aws.client("events"), account.aws.client("sqs")
    url = sqs.create_queue(QueueName="events")["QueueUrl"]
    queue, rule = f"arn:aws:sqs:{REGION}:{ACCOUNT}:events", f"arn:aws:events:{REGION}:{ACCOUNT}:rule/seen"
    events.put_rule(Name="seen", EventPattern='{"source": ["seen"]}')
    events.put_targets(Rule="seen", Targets=[{"Id": "queue", "Arn": queue}])
    send = lambda: events.put_events(Entries=[{"Source": "seen", "DetailType": "x", "Detail": "{}"}])  # noqa: E731
    count = lambda: int(sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["ApproximateNumberOfMessages"])["Attributes"]["ApproximateNumberOfMessages"])  # noqa: E731
    policy = lambda source: sqs.set_queue_attributes(QueueUrl=url, Attributes={"Policy": json.dumps({"Version": "2012-10-17", "Statement": [  # noqa: E731
        {"Effect": "Allow", "Principal": {"Service": "events.amazonaws.com"}, "Action": "sqs:SendMessage", "Resource": queue,
         "Condition": {"ArnEquals": {"aws:SourceArn": source}}}]})})
    send()
    policy(rule + "-other")
    send()
    time.sleep(0.5)
    assert count() == 0 and [ask.action for _, ask in account.proxy.refused] == ["sqs:SendMessage"] * 2
    policy(rule)
    account.proxy.copies = lambda: 3
    send()
    for _ in range(100):
        if count() == 3:
            break
        time.sleep(0.1)
    assert count() == 3


# Replay


def test_a_statement_that_nothing_needs_is_named(account):
    role = account.role("generous", ("s3:GetObject", f"{ARN}/a/*"), ("s3:PutObject", f"{ARN}/b/*"), ("s3:GetObject", f"{ARN}/a/1"))
    unneeded = lambda asks: [sid for (sid, part), needed in account.proxy.roles.needed(role, asks).items() if not needed]  # noqa: E731
    asks = {Ask.of("s3:GetObject", f"{ARN}/a/1"), Ask.of("s3:GetObject", f"{ARN}/a/2")}
    assert unneeded(asks) == ["S1", "S2"]
    assert unneeded(asks | {Ask.of("s3:PutObject", f"{ARN}/b/1")}) == ["S2"]
    # What is refused needs nothing.
    assert unneeded(asks | {Ask.of("s3:PutObject", f"{ARN}/c/1")}) == ["S1", "S2"]
    s3 = account.client(role)
    s3.put_object(Bucket=BUCKET, Key="b/1", Body=b"")
    assert unneeded(account.proxy.asked[role]) == ["S0", "S2"]
    role = account.role("broad", (["s3:GetObject", "s3:PutObject"], [f"{ARN}/a/*", f"{ARN}/b/*"]))
    needed = account.proxy.roles.needed(role, asks)
    assert needed == {("S0", None): True, ("S0", "s3:GetObject"): True, ("S0", "s3:PutObject"): False,
                      ("S0", f"{ARN}/a/*"): True, ("S0", f"{ARN}/b/*"): False}


def test_the_proxy_passes_everything_else_on_unchanged(account):
    """Bytes, ranges and headers, so that a result behind the proxy is that of S3."""
    s3 = account.client(account.role("plain", ("s3:*", f"{ARN}/*")))
    body = bytes(range(256)) * 999
    s3.put_object(Bucket=BUCKET, Key="plain/ä b", Body=body, ContentType="image/jpeg", Metadata={"a": "b"})
    got = s3.get_object(Bucket=BUCKET, Key="plain/ä b")
    assert got["Body"].read() == body and got["ContentType"] == "image/jpeg" and got["Metadata"] == {"a": "b"}
    assert s3.get_object(Bucket=BUCKET, Key="plain/ä b", Range="bytes=5-9")["Body"].read() == body[5:10]
    assert s3.head_object(Bucket=BUCKET, Key="plain/ä b")["ContentLength"] == len(body)
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(f"{account.proxy.endpoint}/{BUCKET}/plain/1")


def test_the_table_of_the_documentation_names_tests_that_exist():
    table = (ROOT / "docs/aws-fidelity.md").read_text()
    found = {path.name: set(re.findall(r"^def (test_\w+)", path.read_text(), re.M)) for path in (ROOT / "tests/aws").glob("test_*.py")}
    for file, name in re.findall(r"`(?:(test_\w+\.py)::)?(test_\w+)`", table):
        assert name in found[file or "test_strict.py"], f"{file or 'test_strict.py'} has no {name}"
    for file in re.findall(r"(?:tests/aws/)?(test_\w+\.py)", table):
        assert file in found, file
    named = set(re.findall(r"test_\w+(?!\.py)\b", table))
    missing = {name for name in found["test_strict.py"] if name not in named} - {
        # About the tools, not about AWS.
        "test_a_policy_that_is_changed_counts_from_the_next_deployment", "test_a_statement_that_nothing_needs_is_named",
        "test_the_proxy_passes_everything_else_on_unchanged", "test_the_table_of_the_documentation_names_tests_that_exist"}
    assert not missing, f"docs/aws-fidelity.md does not have {missing}"


def test_a_request_that_finds_a_key_while_another_reads_its_policy_is_allowed():
    """The first requests after a deployment come at the same time. A decision is remembered until the next one."""
    arn, role = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/1", f"arn:aws:iam::{ACCOUNT}:role/Writer"
    own = StrictProxy()
    statement = {"Effect": "Allow", "Action": "kms:*", "Resource": "*"}
    policy = {"Version": "2012-10-17", "Statement": [statement | {"Principal": {"AWS": f"arn:aws:iam::{ACCOUNT}:root"}}]}
    answers = []

    class Kms:
        def describe_key(self, KeyId):
            return {"KeyMetadata": {"Arn": arn}}

        def get_key_policy(self, KeyId, PolicyName):
            if not answers:
                answers.append(None)
                answers.append(own.use_key(role, "kms:GenerateDataKey", "alias/1"))
            return {"Policy": json.dumps(policy)}

    try:
        own.client, own.roles = lambda service: Kms(), Roles(own.evaluator, None)
        own.roles.policies = {role: [("ResultsKey", {"Version": "2012-10-17", "Statement": [statement]})]}
        assert own.use_key(role, "kms:GenerateDataKey", "alias/1") is None and answers == [None, None], own.refused
        assert own.refused == []
    finally:
        own.stop()
