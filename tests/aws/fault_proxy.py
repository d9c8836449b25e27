"""A proxy in front of the local S3 that injects faults.

`rule(method, path)` is called for every request and returns None (forward it), "throttle" (503 SlowDown), "fail" (500),
"refuse" (400), "cut" (the connection is closed) or "cut half" (half of the answer, then closed).

`calls` is the set of (function, method, path with query); the function comes from the user agent. The source of a copy is in
it with the method "COPY". `sent` lists the requests in order.
"""

import http.client
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SLOW_DOWN = (503, b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>")
INTERNAL = (500, b"<Error><Code>InternalError</Code><Message>made to fail</Message></Error>")
REFUSED = (400, b"<Error><Code>InvalidRequest</Code><Message>made to fail</Message></Error>")


class FaultProxy:
    def __init__(self):
        self.target = None
        self.rule = lambda method, path: None
        self.faults = 0
        self.calls = set()
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
                body = self.body()
                if found := re.search(r"app/(\S+)", self.headers.get("User-Agent", "")):
                    call = (found.group(1), self.command, self.path)
                    proxy.calls.add(call)
                    proxy.sent.append(call)
                    if source := self.headers.get("x-amz-copy-source"):
                        proxy.calls.add((found.group(1), "COPY", "/" + source.removeprefix("/")))
                fault = proxy.rule(self.command, self.path)
                if fault:
                    proxy.faults += 1
                if fault in ("throttle", "fail", "refuse"):
                    status, text = {"throttle": SLOW_DOWN, "fail": INTERNAL, "refuse": REFUSED}[fault]
                    return self.answer(status, [("Content-Type", "application/xml")], text)
                if fault == "cut":
                    self.close_connection = True
                    return None
                connection = http.client.HTTPConnection("127.0.0.1", proxy.target, timeout=60)
                headers = {n: v for n, v in self.headers.items() if n.lower() not in ("transfer-encoding", "connection", "content-length")}
                headers["Content-Length"] = str(len(body))
                connection.request(self.command, self.path, body, headers)
                response = connection.getresponse()
                content = response.read()
                self.answer(response.status, response.getheaders(), content, cut=fault == "cut half")
                connection.close()
                return None

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = pass_on

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self):
        self.server.shutdown()
        self.server.server_close()
