"""What `pomona status` says when Step Functions refuses: an answer that the local AWS never gives."""

import contextlib
import http.server
import json
import os
import subprocess
import threading

import pytest
from local_aws import POMONA

ARN = "arn:aws:states:eu-west-3:123456789012:execution:pomona-pipeline:first"


@contextlib.contextmanager
def refusing(code, message):
    """A Step Functions that answers everything with one error."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            body = json.dumps({"__type": f"com.amazonaws.swf.service.v2.model#{code}", "message": message}).encode()
            self.send_response(400)
            self.send_header("Content-Type", "application/x-amz-json-1.0")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.mark.parametrize("code, name, words", [
    ("AccessDeniedException", "Execution.Denied", "states:DescribeExecution"),
    ("ExpiredTokenException", "Execution.Denied", "refused access"),
    ("ExecutionDoesNotExist", "Execution.NotFound", "does not know this"),
    ("InvalidArn", "Execution.NotFound", ARN),
])
def test_a_refusal_names_the_action_and_what_to_do(code, name, words):
    with refusing(code, "User is not authorized") as endpoint:
        env = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "AWS_ENDPOINT_URL": endpoint, "AWS_ACCESS_KEY_ID": "test",
               "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
        done = subprocess.run([POMONA, "status", ARN], env=env, capture_output=True, text=True)
    assert done.returncode == 1 and f"error[{name}]" in done.stderr and words in done.stderr, done.stderr
    assert "help: " in done.stderr and done.stdout == ""
