"""Starts ministack with what AWS enforces and ministack does not, where no proxy can see it: inside one process, state
machines call functions, read work lists and write results, and queues call functions.

    POMONA_STRICT=http://127.0.0.1:PORT python strict_ministack.py

PORT is that of strict_proxy.py, which decides. Functions of ministack are replaced by name (`instead_of`); a release of
ministack without one of the names fails at the start, and test_strict.py sees whether each still takes effect.

- Each function gets an access key of its role. The service acts for the role, too: it writes logs and traces, and reads queues.
- A state machine needs its role's permission for functions, work lists, child executions and results.
- Throttled calls are `Lambda.TooManyRequestsException` (ministack: Lambda.Unknown). The limit is LAMBDA_ACCOUNT_CONCURRENCY.
- Retries wait with full jitter and MaxDelaySeconds (ministack ignores both).
- Inputs and outputs of states are at most 256 KiB, so are the results of a map without ResultWriter: States.DataLimitExceeded,
  which States.ALL does not match. ResultWriter writes (ministack ignores it).
- A name may be used again for the same input while the execution runs; not for another one.
- RedriveExecution: states that ended are not entered again, items of a map that succeeded are not run again.
- Events reach a queue only if its policy says so; more than once and in any order if the proxy says so.
- A function is stopped at a deadline if the proxy names one.

docs/aws-fidelity.md names AWS's page for each.
"""

import collections
import contextvars
import copy
import functools
import json
import os
import random
import sys
import threading
import time
import urllib.error
import urllib.request

from ministack import app
from ministack.core import lambda_runtime
from ministack.services import eventbridge, lambda_svc, stepfunctions
from ministack.services.cloudformation import provisioners

from iam import ACCOUNT, access_key
from local_aws import REGION

PROXY = os.environ["POMONA_STRICT"]
PAYLOAD = 256 * 1024
URL_PAYLOAD = 6 * 1024 * 1024
Error = stepfunctions._ExecutionError


def instead_of(module, name):
    """Replaces a function of ministack by one that gets it as its first argument."""
    def put(function):
        original = getattr(module, name)
        replacement = functools.wraps(original)(functools.partial(function, original))
        setattr(module, name, replacement)
        return replacement
    return put


def post(path, data):
    request = urllib.request.Request(f"{PROXY}/_strict/{path}", json.dumps(data).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.loads(response.read())


def ask(principal, *asks, policy=None):
    """Asks the proxy for permission. An ask is (action, resource) or (action, resource, condition keys)."""
    asks = [{"action": a[0], "resource": a[1], "context": a[2] if len(a) > 2 else {}} for a in asks]
    return post("ask", {"principal": principal, "asks": asks, "policy": policy})


# Functions


@instead_of(lambda_runtime, "execution_credentials")
def credentials(original, config):
    """"Lambda execution role": a function has the credentials of its role."""
    return {**original(config), "AWS_ACCESS_KEY_ID": access_key(config["Role"]), "AWS_SECRET_ACCESS_KEY": "strict"}


lambda_svc.execution_credentials = lambda_runtime.execution_credentials


@instead_of(lambda_svc, "_emit_lambda_logs")
def emit_logs(original, func, *args, **kwargs):
    """"Sending Lambda function logs to CloudWatch Logs", "Visualize Lambda function invocations using AWS X-Ray": Lambda
    writes both for the role. What may not be written is lost, and the function does not fail."""
    config = func.get("config") or func
    group = (config.get("LoggingConfig") or {}).get("LogGroup") or f"/aws/lambda/{config['FunctionName']}"
    if (config.get("TracingConfig") or {}).get("Mode") == "Active":
        ask(config["Role"], ("xray:PutTraceSegments", "*"), ("xray:PutTelemetryRecords", "*"))
    log = f"arn:aws:logs:{REGION}:{ACCOUNT}:log-group:{group}:log-stream:"
    if not ask(config["Role"], ("logs:CreateLogStream", log + "latest"), ("logs:PutLogEvents", log + "latest"))["refused"]:
        original(func, *args, **kwargs)


@instead_of(lambda_svc, "handle_function_url_request")
async def handle_function_url_request(original, url_id, method, path, headers, body, *args, **kwargs):
    """"Lambda quotas": invocation payload, to which a binary body counts in base64."""
    if len(body or b"") * 4 / 3 > URL_PAYLOAD:
        return 413, {"Content-Type": "application/json"}, b'{"Message":"Request must be smaller than 6291456 bytes for the InvokeFunction operation"}'
    return await original(url_id, method, path, headers, body, *args, **kwargs)


@instead_of(lambda_runtime.ProvidedWorker, "invoke")
def invoke(original, worker, *args, **kwargs):
    """Stops the function at the deadline that the proxy names. Its own timeout is that of the template."""
    deadline = post("function", {"function": worker.func_name})["deadline"]
    if deadline is None:
        return original(worker, *args, **kwargs)
    config = worker.config
    worker.config = {**config, "Timeout": deadline}
    try:
        return original(worker, *args, **kwargs)
    finally:
        worker.config = config


# `partial` objects are no methods.
lambda_runtime.ProvidedWorker.invoke = lambda self, *args, _invoke=invoke, **kwargs: _invoke(self, *args, **kwargs)


@instead_of(lambda_svc, "_run_sqs_batch")
def run_batch(original, esm, func_rec, event, batch, queue_url, queue_name):
    """"Using Lambda with Amazon SQS", execution role permissions: without them, messages stay in the queue."""
    role, queue = func_rec["config"]["Role"], esm["EventSourceArn"]
    needed = [(action, queue) for action in ("sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes")]
    if not ask(role, *needed)["refused"]:
        original(esm, func_rec, event, batch, queue_url, queue_name)


# Events

rule_arn = contextvars.ContextVar("rule_arn", default="")


@instead_of(eventbridge, "_invoke_target")
def invoke_target(original, target, event, rule, view=None):
    token = rule_arn.set(rule.get("Arn") or f"arn:aws:events:{REGION}:{ACCOUNT}:rule/{rule['Name']}")
    try:
        return original(target, event, rule, view)
    finally:
        rule_arn.reset(token)


@instead_of(eventbridge, "_dispatch_to_sqs")
def dispatch_to_sqs(original, spec, payload, sqs_parameters=None):
    """"Using resource-based policies for Amazon EventBridge"; S3 events come at least once and in any order."""
    from ministack.services import sqs

    queue = sqs._queue_by_arn(str(spec)) or {"attributes": {}}
    policy = json.loads(queue["attributes"].get("Policy") or '{"Version": "2012-10-17", "Statement": []}')
    answer = ask("events.amazonaws.com", ("sqs:SendMessage", str(spec), {"aws:SourceArn": rule_arn.get()}), policy=policy)
    if answer["refused"]:
        return
    original(spec, payload, sqs_parameters)
    for _ in range(answer["copies"] - 1):
        context = contextvars.copy_context()
        later = threading.Timer(random.uniform(0, 3), context.run, (original, spec, payload, sqs_parameters))
        later.daemon = True
        later.start()


# State machines

# The execution and the role that a thread works for.
running = contextvars.ContextVar("running", default=None)
map_of_results = contextvars.ContextVar("map_of_results", default=None)


class Progress:
    """What an execution has done, for its redrive."""

    def __init__(self):
        self.ended = []  # what the handlers of its states returned
        self.items = {}  # (label of the map, index) -> result
        self.replaying = collections.deque()
        # Until the first state that did not end before, nothing is added to the history.
        self.silent = False
        self.resuming = False
        self.lock = threading.Lock()  # held by the thread that runs the execution


progress = collections.defaultdict(Progress)
traced = {}  # state machine -> whether X-Ray is on; ministack forgets it


def role_of(execution_arn):
    execution = stepfunctions._executions[execution_arn]
    return stepfunctions._state_machines[execution["stateMachineArn"]]["roleArn"]


def refuse(error, answer):
    if answer["refused"]:
        raise Error(error, answer["refused"])


def too_big(value):
    return len(json.dumps(value, ensure_ascii=False).encode()) > PAYLOAD


def note_tracing(original):
    """CloudFormation's TracingConfiguration, which ministack drops."""
    def change(*args):
        answer = original(*args)
        properties = args[2] if isinstance(args[2], dict) else args[1]
        traced[answer[0]] = (properties.get("TracingConfiguration") or {}).get("Enabled")
        return answer
    return change


kinds = provisioners._RESOURCE_HANDLERS["AWS::StepFunctions::StateMachine"]
kinds.update({name: note_tracing(kinds[name]) for name in ("create", "update")})


@instead_of(stepfunctions, "_start_execution")
def start_execution(original, data):
    """"StartExecution": idempotent for a running execution with the same name and input; the input has at most 256 KiB."""
    if len(data.get("input", "{}").encode()) > PAYLOAD:
        return stepfunctions.error_response_json("InvalidExecutionInput", "The input is longer than 262144 bytes", 400)
    machine = stepfunctions._state_machines.get(data.get("stateMachineArn"))
    if machine is not None and "name" in data:
        arn = f"arn:aws:states:{REGION}:{ACCOUNT}:execution:{machine['name']}:{data['name']}"
        execution = stepfunctions._executions.get(arn)
        if execution and execution["status"] == "RUNNING" and execution["input"] == data.get("input", "{}"):
            return stepfunctions.json_response({"executionArn": arn, "startDate": execution["startDate"]})
    return original(data)


@instead_of(stepfunctions, "_run_execution")
def run_execution(original, arn):
    execution, role, done = stepfunctions._executions[arn], role_of(arn), progress[arn]
    running.set((arn, role))
    with done.lock:
        if execution["status"] != "RUNNING":
            return None
        machine, asks = stepfunctions._state_machines[execution["stateMachineArn"]], []
        logging = {name.lower(): value for name, value in (machine.get("loggingConfiguration") or {}).items()}
        if logging.get("level", "OFF") != "OFF":
            # "Logging to CloudWatch Logs". AWS refuses to create the state machine; here its executions fail.
            asks += [(f"logs:{action}", "*") for action in (
                "CreateLogDelivery", "GetLogDelivery", "UpdateLogDelivery", "DeleteLogDelivery", "ListLogDeliveries",
                "PutResourcePolicy", "DescribeResourcePolicies", "DescribeLogGroups")]
        if traced.get(execution["stateMachineArn"]):
            # "Trace Step Functions request data in AWS X-Ray".
            asks += [(f"xray:{action}", "*") for action in (
                "PutTraceSegments", "PutTelemetryRecords", "GetSamplingRules", "GetSamplingTargets")]
        if asks and (refused := ask(role, *asks)["refused"]):
            return stepfunctions._fail_execution(execution, "AccessDeniedException", refused)
        if execution.get("redriveCount"):
            done.replaying, done.ended = collections.deque(done.ended), []
            done.silent = done.resuming = True
        return original(arn)


@instead_of(stepfunctions, "_add_event")
def add_event(original, execution, event_type, details=None):
    """"Step Functions service quotas": 256 KiB for the input or output of a task, state or execution."""
    if (done := progress.get(execution["executionArn"])) and done.silent:
        return None
    for value in (details or {}).values():
        for name in ("input", "output"):
            if event_type != "ExecutionFailed" and len((value.get(name) or "").encode()) > PAYLOAD:
                raise Error("States.DataLimitExceeded", f"The {name} of {event_type} is longer than 262144 bytes")
    return original(execution, event_type, details)


@instead_of(stepfunctions, "_error_matches")
def error_matches(original, error_equals, error):
    """"Handling errors in Step Functions workflows": States.ALL and States.TaskFailed match neither of these."""
    if error in ("States.DataLimitExceeded", "States.Runtime"):
        return error in error_equals
    return original(error_equals, error)


@instead_of(stepfunctions, "_find_matching_retrier")
def find_retrier(original, retriers, error, counts):
    """"Retrying after an error": MaxDelaySeconds and JitterStrategy. ministack waits IntervalSeconds * BackoffRate^n."""
    retrier, index = original(retriers, error, counts)
    if retrier is None:
        return retrier, index
    delay = retrier.get("IntervalSeconds", 1) * retrier.get("BackoffRate", 2.0) ** min(counts.get(index, 0), 64)
    delay = min(delay, retrier.get("MaxDelaySeconds", 31_622_400))
    if retrier.get("JitterStrategy") == "FULL":
        delay = random.uniform(0, delay)
    return {**retrier, "IntervalSeconds": delay, "BackoffRate": 1}, index


@instead_of(stepfunctions, "_invoke_resource")
def invoke_resource(original, resource, data):
    if too_big(data):
        raise Error("States.DataLimitExceeded", "The input of the task is longer than 262144 bytes")
    if resource == "arn:aws:states:::events:putEvents":
        # "Add EventBridge events with Step Functions".
        buses = {entry.get("EventBusName", "default").rpartition("/")[2] for entry in data["Entries"]}
        sources = sorted({entry["Source"] for entry in data["Entries"]})
        asks = [("events:PutEvents", f"arn:aws:events:{REGION}:{ACCOUNT}:event-bus/{bus}", {"events:source": sources}) for bus in buses]
        refuse("EventBridge.AccessDeniedException", ask(running.get()[1], *asks))
    elif not resource.startswith("arn:aws:states:::lambda:invoke"):
        raise Error("States.Runtime", f"tests/aws/strict_ministack.py does not know the permissions of {resource}")
    result = original(resource, data)
    if too_big(result):
        raise Error("States.DataLimitExceeded", "The output of the task is longer than 262144 bytes")
    return result


@instead_of(stepfunctions, "_call_lambda")
def call_lambda(original, func_ref, event):
    _func, config, name = lambda_svc._get_func_record_for_ref(func_ref)
    arn = func_ref if func_ref.startswith("arn:") else (config or {}).get("FunctionArn", func_ref)
    refuse("Lambda.AWSLambdaException", ask(running.get()[1], ("lambda:InvokeFunction", arn)))
    try:
        return original(func_ref, event)
    except Error as error:
        if error.error == "Lambda.Unknown" and "TooManyRequestsException" in error.cause:
            post("throttled", {"error": "TooManyRequestsException"})
            raise Error("Lambda.TooManyRequestsException", f"Rate Exceeded: {name}") from None
        raise


def as_role(method, bucket, key, body=None):
    """A request to S3 with the credentials of the state machine, through the proxy. Step Functions tries again."""
    url = f"{PROXY}/{bucket}/{urllib.request.quote(key)}"
    credential = f"Credential={access_key(running.get()[1])}/20260101/{REGION}/s3/aws4_request"
    for attempt in range(5):
        request = urllib.request.Request(url, body, {"Authorization": f"AWS4-HMAC-SHA256 {credential}, SignedHeaders=host, Signature=0"},
                                         method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return response.read()
        except urllib.error.HTTPError as error:
            if error.code < 500 or attempt == 4:
                raise
        except OSError:
            if attempt == 4:
                raise
        time.sleep(0.1 * 2**attempt)
    return None


@instead_of(stepfunctions, "_s3_object_text")
def s3_object_text(_original, bucket, key):
    """"IAM policies for using Distributed Map state": the role reads the work list."""
    try:
        return as_role("GET", bucket, key).decode()
    except urllib.error.HTTPError as error:
        raise Error("States.ItemReaderFailed", f"{error.code} for s3://{bucket}/{key}: {error.read().decode()}") from None


@instead_of(stepfunctions, "_run_distributed_map")
def run_distributed_map(original, state_def, raw_input, effective, iterator, execution, ctx):
    """The role needs the permissions of "IAM policies for using Distributed Map state"."""
    arn, role = running.get()
    machine = execution["stateMachineArn"]
    label = state_def.get("Label") or "map"
    child = f"arn:aws:states:{REGION}:{ACCOUNT}:execution:{machine.rpartition(':')[2]}"
    children = (f"{child}/{label}:child", f"{child}:child")
    refuse("States.Runtime", ask(role, ("states:StartExecution", machine),
                                 *((action, each) for action in ("states:DescribeExecution", "states:StopExecution") for each in children)))
    done = progress[arn]
    redriven = done.resuming and any(name == label for name, _ in done.items)
    if redriven:
        refuse("States.Runtime", ask(role, ("states:RedriveExecution", children[0])))
        for run in [r for r in stepfunctions._map_runs.values() if r["executionArn"] == arn and f"/{label}:" in r["mapRunArn"]]:
            del stepfunctions._map_runs[run["mapRunArn"]]
    else:
        done.items = {key: value for key, value in done.items.items() if key[0] != label}
    map_of_results.set((state_def, effective, ctx, execution))
    before = set(stepfunctions._map_runs.keys())
    try:
        return original(state_def, raw_input, effective, iterator, execution, ctx)
    finally:
        for run in [r for name, r in stepfunctions._map_runs.items() if name not in before]:
            run["redriveCount"] = execution.get("redriveCount", 0) if redriven else 0


@instead_of(stepfunctions, "_run_sub_machine")
def run_sub_machine(original, states, start_at, input_data, execution, ctx):
    if not execution.get("mapRunArn"):
        return original(states, start_at, input_data, execution, ctx)
    done = progress[ctx["Execution"]["Id"]]
    key = (execution["mapRunArn"].rpartition("/")[2].partition(":")[0], ctx["Map"]["Item"]["Index"])
    if key not in done.items:
        result = original(states, start_at, input_data, execution, ctx)
        done.items[key] = copy.deepcopy(result)
    return copy.deepcopy(done.items[key])


@instead_of(stepfunctions, "_apply_result_selector")
def apply_result_selector(original, state_def, result):
    if state_def.get("Type") != "Map" or map_of_results.get() is None or map_of_results.get()[0] is not state_def:
        return original(state_def, result)
    if "ResultWriter" in state_def:
        return original(state_def, write_results(state_def["ResultWriter"], result))
    if too_big(result):
        raise Error("States.DataLimitExceeded", "The results of the map are longer than 262144 bytes, and it has no ResultWriter")
    return original(state_def, result)


def write_results(writer, results):
    """"ResultWriter (Map)": the results are objects, the output of the state names the manifest."""
    _, effective, ctx, execution = map_of_results.get()
    to = stepfunctions._resolve_params_obj(writer.get("Parameters") or {}, effective, ctx)
    run = next(r["mapRunArn"] for r in reversed(list(stepfunctions._map_runs.values())) if r["executionArn"] == execution["executionArn"])
    folder = f"{to['Prefix'].rstrip('/')}/{run.rpartition(':')[2]}"
    objects = [(action, f"arn:aws:s3:::{to['Bucket']}/{folder}/manifest.json") for action in (
        "s3:GetObject", "s3:ListMultipartUploadParts", "s3:AbortMultipartUpload")]
    refuse("States.ResultWriterFailed", ask(running.get()[1], *objects))
    children = [e for e in stepfunctions._executions.values() if e.get("mapRunArn") == run]
    files = {}
    for status in ("SUCCEEDED", "FAILED", "PENDING"):
        found = [{"ExecutionArn": e["executionArn"], "Name": e["name"], "Status": e["status"], "Output": e["output"],
                  "Input": e["input"]} for e in children if e["status"] == status]
        files[status] = [{"Key": f"{folder}/{status}_0.json", "Size": len(json.dumps(found))}] if found else []
        try:
            if found:
                as_role("PUT", to["Bucket"], f"{folder}/{status}_0.json", json.dumps(found).encode())
        except urllib.error.HTTPError as error:
            raise Error("States.ResultWriterFailed", error.read().decode()) from None
    manifest = {"DestinationBucket": to["Bucket"], "MapRunArn": run, "ResultFiles": files}
    try:
        as_role("PUT", to["Bucket"], f"{folder}/manifest.json", json.dumps(manifest).encode())
    except urllib.error.HTTPError as error:
        raise Error("States.ResultWriterFailed", error.read().decode()) from None
    return {"MapRunArn": run, "ResultWriterDetails": {"Bucket": to["Bucket"], "Key": f"{folder}/manifest.json"}}


# Redrive: "Restarting state machine executions with redrive"


def remember(original, *args):
    """Runs the handler of a state, or gives back what it returned before the redrive."""
    ctx = args[-1]
    if "Map" in ctx or running.get() is None:
        return original(*args)
    done = progress[ctx["Execution"]["Id"]]
    if done.replaying:
        returned = done.replaying.popleft()
    else:
        done.silent = False
        try:
            returned = original(*args)
        finally:
            done.resuming = False
    done.ended.append(copy.deepcopy(returned))
    return copy.deepcopy(returned)


for handler in ("pass", "task", "choice", "wait", "parallel", "map"):
    instead_of(stepfunctions, f"_execute_{handler}")(remember)


@instead_of(stepfunctions, "_fail_execution")
def fail_execution(original, execution, error, cause):
    progress[execution["executionArn"]].silent = False
    return original(execution, error, cause)


def redrive(data):
    """Goes on at the state that failed, with its input; a state of type Fail fails again."""
    execution = stepfunctions._executions.get(data.get("executionArn"))
    if execution is None:
        return stepfunctions.error_response_json("ExecutionDoesNotExist", f"Execution Does Not Exist: '{data.get('executionArn')}'", 400)
    if execution["status"] not in ("FAILED", "ABORTED", "TIMED_OUT"):
        return stepfunctions.error_response_json(
            "ExecutionNotRedrivable", f"Execution is {execution['status']} and cannot be redriven", 400)
    arn, now = execution["executionArn"], stepfunctions.now_iso()
    execution.update(status="RUNNING", stopDate=None, output=None, error=None, cause=None,
                     redriveCount=execution.get("redriveCount", 0) + 1, redriveDate=now)
    stepfunctions._add_event(execution, "ExecutionRedriven", {"executionRedrivenEventDetails": {"redriveCount": execution["redriveCount"]}})
    stepfunctions._emit_execution_status_event(execution)
    threading.Thread(target=contextvars.copy_context().run, args=(stepfunctions._run_execution, arn), daemon=True).start()
    return stepfunctions.json_response({"redriveDate": now})


@instead_of(stepfunctions, "handle_request")
async def handle_request(original, method, path, headers, body, query_params):
    if headers.get("x-amz-target", "").endswith(".RedriveExecution"):
        return stepfunctions._finalize_response(redrive(json.loads(body)))
    return await original(method, path, headers, body, query_params)


@instead_of(stepfunctions, "_describe_execution")
def describe_execution(original, data):
    answer = original(data)
    execution = stepfunctions._executions.get(data.get("executionArn"))
    if execution is None:
        return answer
    redrivable = execution["status"] in ("FAILED", "ABORTED", "TIMED_OUT")
    more = {"redriveCount": execution.get("redriveCount", 0), "redriveStatus": "REDRIVABLE" if redrivable else "NOT_REDRIVABLE"}
    if "redriveDate" in execution:
        more["redriveDate"] = execution["redriveDate"]
    return stepfunctions.json_response({**json.loads(answer[2]), **more})


if __name__ == "__main__":
    sys.argv = ["ministack"]
    app.main()
