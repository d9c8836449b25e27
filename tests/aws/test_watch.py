"""`make watch`: the functions under `cargo lambda watch`, called as docs/deploy.md says it."""

import contextlib
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

import pytest
from local_aws import ROOT, build_environment, free_port

# The first call of a function builds it.
SECONDS = 1_800


class Watch:
    """`tests/aws/watch.py` in a process of its own, and its output so far."""

    def __init__(self):
        self.port, self.lines = free_port(), []
        env = build_environment() | {"PORT": str(self.port), "PYTHONUNBUFFERED": "1"}
        command = [sys.executable, ROOT / "tests/aws/watch.py"]
        self.process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                        start_new_session=True)
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self):
        for line in self.process.stdout:
            self.lines.append(line)

    def wait(self, seconds=120):
        """Until it listens."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self.process.poll() is None:
            with contextlib.suppress(OSError), contextlib.closing(socket.create_connection(("127.0.0.1", self.port), 1)):
                return True
            time.sleep(0.2)
        return False

    def output(self):
        return "".join(self.lines)

    def invoke(self, function, event):
        """The answer of a function, or the error that `cargo lambda invoke` prints."""
        command = ["cargo", "lambda", "invoke", "--invoke-address", "127.0.0.1", "--invoke-port", str(self.port), function, "--data-file", event]
        call = subprocess.Popen(command, cwd=ROOT, env=build_environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        deadline, before = time.monotonic() + SECONDS, len(self.lines)
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                answer, _ = call.communicate(timeout=1)
                return json.loads(answer) if call.returncode == 0 else answer
            # A function that does not build or start never answers.
            said = "".join(self.lines[before:])
            if "command exited" in said or time.monotonic() > deadline:
                call.kill()
                pytest.fail(f"{function} does not answer; `make watch` says:\n{self.output()[-4000:]}")

    def ask(self, path, photo=None):
        """The answer of the function query, which `cargo lambda watch` serves like a function URL."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/lambda-url/query{path}", photo, {"content-type": "image/jpeg"})
        try:
            with urllib.request.urlopen(request, timeout=SECONDS) as response:
                return response.status, json.loads(response.read())
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())

    def stop(self):
        os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def watch():
    watch = Watch()
    try:
        assert watch.wait(), watch.output()
        yield watch
    finally:
        watch.stop()


def documented():
    """(function, event) of the commands in docs/deploy.md."""
    text = (ROOT / "docs/deploy.md").read_text()
    return re.findall(r"cargo lambda invoke (\w+) +--data-file (\S+)", text)


def test_a_run_by_hand_is_what_the_documentation_says(watch):
    calls = documented()
    assert {function for function, _ in calls} == {"plan", "featurize", "reduce", "project", "publish", "vacuum"}
    answers = []
    for function, event in calls:
        answer = watch.invoke(function, event)
        assert isinstance(answer, dict), f"{function} {event}: {answer}\n{watch.output()[-4000:]}"
        answers.append(answer)
    plan, featurize, merge, reduce, _, publish, vacuum = answers
    assert (plan["objects"], plan["shards"]) == (56, 1) and featurize["rows"] == 56 and merge["entry"]["rows"] == 56
    assert reduce["parts_to_project"] == 1 and publish["version"] == 1 and vacuum["kept"] == [1]


def test_the_version_of_the_run_by_hand_answers_questions(watch):
    # Called after it: the first test has made version 1.
    status, about = watch.ask("/")
    assert status == 200 and (about["version"], about["images"]) == (1, 56), f"{about}\n{watch.output()[-4000:]}"
    photo = (ROOT / "tests/golden/pillow/formats/420.jpg").read_bytes()
    for path in ("/predict?n=2", "/search?n=2"):
        status, answer = watch.ask(path, photo)
        assert status == 200 and len(answer.get("images") or answer["neighbours"]) == 2, answer
    status, error = watch.ask("/predict", b"no image")
    assert (status, error["reason"]) == (422, "not_an_image"), error


def test_a_lister_and_plan_take_turns(watch):
    plan, ranges = "functions/plan/events/listed.json", "functions/list/events/ranges.json"
    answers = [watch.invoke(function, event) for function, event in [("plan", plan), ("list", ranges), ("plan", plan)]]
    assert all(isinstance(answer, dict) for answer in answers), f"{answers}\n{watch.output()[-4000:]}"
    assert answers[0]["listers"] == 1 and answers[1] == {"run": "listed", "objects": 0, "ranges_left": 0}
    assert answers[2]["listers"] == 0 and answers[2]["objects"] == 56


def test_a_trigger_without_a_state_machine_says_so(watch):
    error = watch.invoke("trigger", "functions/trigger/events/uploads.json")
    assert isinstance(error, str) and "Execution.NotFound" in error and "does not exist" in error, error


def test_an_edited_function_is_built_again(watch):
    source = pathlib.Path(ROOT / "functions/vacuum/src/main.rs")
    before = source.read_text()
    mark = "this line is of a test"
    try:
        source.write_text(before.replace("    pomona_vacuum::serve()", f'    println!("{mark}");\n    pomona_vacuum::serve()'))
        deadline = time.monotonic() + SECONDS
        while mark not in watch.output() and time.monotonic() < deadline:
            time.sleep(1)
            watch.invoke("vacuum", "functions/vacuum/events/weekly.json")
        assert mark in watch.output(), watch.output()[-4000:]
    finally:
        source.write_text(before)
