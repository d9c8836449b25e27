"""An environment of Lambda: one process of a program, and the runtime API from which it takes its events."""

import json
import queue
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        """The process was killed while it waited for an event."""


class Environment:
    """`started`, `asked` and `answered` are the times of the process's start, of its first request for an event, which ends the
    init phase, and of its last answer."""

    def __init__(self, program, handler, variables):
        self.events, self.answers = queue.Queue(), queue.Queue()
        self.asked = self.answered = None
        environment = self

        class Runtime(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def send(self, status, body, headers=()):
                self.send_response(status)
                for name, value in [*headers, ("Content-Length", str(len(body)))]:
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def do_GET(self):
                environment.asked = environment.asked or time.perf_counter()
                event = json.dumps(environment.events.get()).encode()
                self.send(200, event, [("Lambda-Runtime-Aws-Request-Id", "1"),
                                       ("Lambda-Runtime-Deadline-Ms", str(int(time.time() * 1000) + 60_000)),
                                       ("Lambda-Runtime-Invoked-Function-Arn", f"arn:aws:lambda:us-east-1:0:function:{handler}")])

            def do_POST(self):
                environment.answered = time.perf_counter()
                environment.answers.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send(202, b"")

        self.server = Server(("127.0.0.1", 0), Runtime)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        variables = variables | {
            "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{self.server.server_port}", "_HANDLER": handler, "AWS_LAMBDA_FUNCTION_NAME": handler,
            "AWS_LAMBDA_FUNCTION_VERSION": "1", "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "1769"}
        self.started = time.perf_counter()
        self.process = subprocess.Popen([program], env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def ask(self, event):
        """Hands over an event; the answer, or the error."""
        self.events.put(event)
        return self.answers.get(timeout=60)

    def stop(self):
        self.process.kill()
        self.process.wait()
        self.server.shutdown()
        self.server.server_close()
