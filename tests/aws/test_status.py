"""`pomona status` with answers that the local AWS never gives: refused requests and redriven executions."""

import contextlib
import http.server
import json
import os
import subprocess
import threading
import time

import pytest
from local_aws import POMONA

ARN = "arn:aws:states:eu-west-3:123456789012:execution:pomona-pipeline:first"


@contextlib.contextmanager
def step_functions(status, answer):
    """A server in place of Step Functions; it answers with `answer(action, request)`."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            body = json.dumps(answer(self.headers["X-Amz-Target"].split(".")[1], request)).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/x-amz-json-1.0")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
           "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
    server.shutdown()


@pytest.mark.parametrize("code, name, words", [
    ("AccessDeniedException", "Execution.Denied", "states:DescribeExecution"),
    ("ExpiredTokenException", "Credentials.Expired", "states:DescribeExecution"),
    ("ExecutionDoesNotExist", "Execution.NotFound", "does not exist"),
    ("InvalidArn", "Execution.NotFound", ARN),
])
def test_a_refusal_names_the_action_and_what_to_do(code, name, words):
    refusal = {"__type": f"com.amazonaws.swf.service.v2.model#{code}", "message": "User is not authorized"}
    with step_functions(400, lambda *_: refusal) as env:
        done = subprocess.run([POMONA, "status", ARN], env=env, capture_output=True, text=True)
    assert done.returncode == 1 and f"error[{name}]" in done.stderr and words in done.stderr, done.stderr
    assert "help: " in done.stderr and done.stdout == ""


def test_a_redriven_execution_has_counts_and_no_rate():
    """The pause between failure and redrive can be hours, so a rate over the whole time would mislead."""
    began, machine = 1_790_000_000, ARN.replace("execution", "stateMachine").rsplit(":", 1)[0]
    counts = {"total": 23, "succeeded": 20, "failed": 0, "running": 1, "pending": 2, "timedOut": 0, "aborted": 0, "resultsWritten": 0}
    run = {"executionArn": ARN, "mapRunArn": f"{ARN.rsplit(':', 1)[0].replace('execution', 'mapRun')}/Featurize:0a1b",
           "stateMachineArn": machine, "startDate": began}
    answers = {
        "DescribeExecution": {"executionArn": ARN, "stateMachineArn": machine, "name": "first", "status": "RUNNING", "startDate": began,
                              "input": "{}", "redriveCount": 1, "redriveDate": began + 86_400, "redriveStatus": "NOT_REDRIVABLE"},
        "GetExecutionHistory": {"events": [{"timestamp": began, "type": "MapStateEntered", "id": 1, "previousEventId": 0,
                                            "stateEnteredEventDetails": {"name": "Featurize"}}]},
        "ListMapRuns": {"mapRuns": [run]},
        "DescribeMapRun": {**run, "status": "RUNNING", "maxConcurrency": 100, "toleratedFailurePercentage": 0,
                           "toleratedFailureCount": 0, "itemCounts": counts, "executionCounts": counts, "redriveCount": 1},
    }
    with step_functions(200, lambda action, _: answers[action]) as env:
        text, status = (subprocess.run([POMONA, "status", ARN, *option], env=env, capture_output=True, text=True, check=True).stdout
                        for option in ([], ["--json"]))
        answers["DescribeMapRun"]["redriveCount"] = 0
        steady = subprocess.run([POMONA, "status", ARN], env=env, capture_output=True, text=True, check=True).stdout
    assert "redriven" in text and "1 time\n" in text and text.splitlines()[-1].endswith("20 of 23"), text
    (featurize,) = json.loads(status)["maps"]
    assert featurize["stage"] == "Featurize" and featurize["rate"] is None and featurize["seconds_left"] is None
    assert json.loads(status)["redrives"] == 1
    last = steady.splitlines()[-1]
    assert "/s, " in last and last.endswith(" left"), steady


def test_following_stays_within_the_quota_of_map_runs_and_forgets_those_that_have_ended():
    """Step Functions developer guide, "Quotas related to API action throttling": DescribeMapRun once a second."""
    began, machine = 1_790_000_000, ARN.replace("execution", "stateMachine").rsplit(":", 1)[0]
    counts = {"total": 9, "succeeded": 9, "failed": 0, "running": 0, "pending": 0, "timedOut": 0, "aborted": 0, "resultsWritten": 0}
    runs = [{"executionArn": ARN, "mapRunArn": f"{ARN.rsplit(':', 1)[0].replace('execution', 'mapRun')}/{label}:0a1b",
             "stateMachineArn": machine, "startDate": began + i} for i, label in enumerate(("Featurize", "Merge", "Project"))]
    asked = []

    def answer(action, request):
        if action == "DescribeMapRun":
            asked.append((time.monotonic(), request["mapRunArn"].split("/")[1].split(":")[0]))
            run = next(run for run in runs if run["mapRunArn"] == request["mapRunArn"])
            ended = {} if "Project" in run["mapRunArn"] else {"stopDate": began + 60}
            return {**run, **ended, "status": "RUNNING", "maxConcurrency": 8, "toleratedFailurePercentage": 0,
                    "toleratedFailureCount": 0, "itemCounts": counts, "executionCounts": counts, "redriveCount": 0}
        ended = sum(name == "Project" for _, name in asked) >= 3
        return {
            "DescribeExecution": {"executionArn": ARN, "stateMachineArn": machine, "name": "first", "startDate": began, "input": "{}",
                                  "status": "SUCCEEDED" if ended else "RUNNING", "output": "{}", "redriveStatus": "NOT_REDRIVABLE"},
            "GetExecutionHistory": {"events": []},
            "ListMapRuns": {"mapRuns": runs},
        }[action]

    with step_functions(200, answer) as env:
        subprocess.run([POMONA, "status", ARN, "--follow"], env=env, capture_output=True, text=True, check=True)
    names = [name for _, name in asked]
    assert names.count("Featurize") == names.count("Merge") == 1 and names.count("Project") >= 3, names
    gaps = [later - earlier for (earlier, _), (later, _) in zip(asked, asked[1:])]
    assert min(gaps) >= 1, gaps
