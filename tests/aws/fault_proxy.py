"""A proxy in front of the local S3 that injects faults.

`rule(method, path)` is called for every request and returns None (forward it), "throttle" (503 SlowDown), "fail" (500),
"refuse" (400), "cut" (the connection is closed) or "cut half" (half of the answer, then closed).

`sent` lists the requests (function, method, path with query) in order; the function comes from the user agent. strict_proxy.py
adds answers of AWS that ministack does not give.
"""

import http.client
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from actions import Request

SLOW_DOWN = (503, b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>")
INTERNAL = (500, b"<Error><Code>InternalError</Code><Message>made to fail</Message></Error>")
REFUSED = (400, b"<Error><Code>InvalidRequest</Code><Message>made to fail</Message></Error>")


class Server(ThreadingHTTPServer):
    daemon_threads = True
    # Connections that wait. Beyond the default, 5, a busy machine resets them, which ends functions.
    request_queue_size = 1_024


class FaultProxy:
    def __init__(self):
        self.target = None
        self.rule = lambda method, path: None
        self.faults = 0
        self.sent = []
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def body(self):
                if "chunked" in self.headers.get("Transfer-Encoding", ""):
                    pieces = []
                    while size := int(self.rfile.readline().split(b";")[0], 16):
                        pieces.append(self.rfile.read(size))
                        self.rfile.readline()
                    self.rfile.readline()
                    return b"".join(pieces)
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))

            def answer(self, status, headers, body, cut=False):
                self.send_response(status)
                for name, value in headers:
                    if name.lower() not in ("transfer-encoding", "content-length", "connection", "date", "server"):
                        self.send_header(name, value)
                length = next((v for n, v in headers if n.lower() == "content-length"), None)
                self.send_header("Content-Length", length if self.command == "HEAD" and length else str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body[: len(body) // 2] if cut else body)
                self.close_connection = self.close_connection or cut

            def pass_on(self):
                headers = {name.lower(): value for name, value in self.headers.items()}
                request = Request(self.command, self.path, headers, self.body())
                if request.function:
                    proxy.sent.append((request.function, self.command, self.path))
                inside = self.path.startswith("/_strict/")
                fault = None if inside else proxy.rule(self.command, self.path)
                if fault:
                    proxy.faults += 1
                if fault in ("throttle", "fail", "refuse"):
                    status, text = {"throttle": SLOW_DOWN, "fail": INTERNAL, "refuse": REFUSED}[fault]
                    return self.answer(status, [("Content-Type", "application/xml")], text)
                if fault == "cut":
                    self.close_connection = True
                    return None
                if (refusal := proxy.before(request)) is not None:
                    return self.answer(*refusal)
                self.answer(*proxy.after(request, *proxy.forward(request)), cut=fault == "cut half")
                return None

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = pass_on

        self.server = Server(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def before(self, request):
        """The answer to a request that is not passed on, or None."""

    def after(self, request, status, headers, body):
        """The answer to a request that was passed on."""
        return status, headers, body

    def forward(self, request):
        """Status, headers and body of ministack's answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.target, timeout=60)
        try:
            headers = {n: v for n, v in request.headers.items() if n not in ("transfer-encoding", "connection", "content-length")}
            headers["content-length"] = str(len(request.body))
            connection.request(request.method, request.target, request.body, headers)
            response = connection.getresponse()
            return response.status, response.getheaders(), response.read()
        finally:
            connection.close()

    def stop(self):
        self.server.shutdown()
        self.server.server_close()
