"""Measures the cold start of the featurize function with a local S3: from the start of its process to its first request
for work (Lambda's init phase, which loads program and model), and from there to the features of the first image.

    make e2e && .venv/ministack/bin/python bench/cold_start.py

`--handler plan` measures the init phase of another function, and `--bootstrap` another program. It emulates Lambda's runtime API, from which a function requests its events. Raw runs go to bench/runs/.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import threading
import time
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests/aws"))
import record  # noqa: E402
from local_aws import LocalAws  # noqa: E402

BOOTSTRAP = ROOT / "target/lambda/lambda/bootstrap"


def start(aws, args, event):
    """Starts the function once; returns milliseconds of init and of the first invocation."""
    times, done = {}, threading.Event()

    class Runtime(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def do_GET(self):
            if "asked" in times:
                done.wait(30)
                self.close_connection = True
                return
            times["asked"] = time.perf_counter()
            body = json.dumps(event).encode()
            self.send_response(200)
            self.send_header("Lambda-Runtime-Aws-Request-Id", "1")
            self.send_header("Lambda-Runtime-Deadline-Ms", str(int(time.time() * 1000) + 60_000))
            self.send_header("Lambda-Runtime-Invoked-Function-Arn", "arn:aws:lambda:us-east-1:0:function:featurize")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self):
            times["answered"] = time.perf_counter()
            times["answer"] = self.rfile.read(int(self.headers["Content-Length"])).decode()
            self.send_response(202)
            self.send_header("Content-Length", "0")
            self.end_headers()
            done.set()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Runtime)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    env = aws.environment() | {"AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{server.server_port}", "AWS_LAMBDA_FUNCTION_NAME": "featurize",
                               "AWS_LAMBDA_FUNCTION_VERSION": "1", "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "1769", "_HANDLER": args.handler}
    began = time.perf_counter()
    process = subprocess.Popen([args.bootstrap], env=env, stdout=subprocess.DEVNULL)
    done.wait(60)
    process.kill()
    process.wait()
    server.shutdown()
    if args.handler == "featurize":
        assert json.loads(times["answer"])["inferred"] == 1, times["answer"]
    return (times["asked"] - began) * 1e3, (times["answered"] - times["asked"]) * 1e3


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--handler", default="featurize")
    parser.add_argument("--bootstrap", type=pathlib.Path, default=BOOTSTRAP)
    args = parser.parse_args()
    with LocalAws() as aws:
        s3 = aws.client("s3")
        for bucket in ("in", "out"):
            s3.create_bucket(Bucket=f"cold-{bucket}")
        folder = aws.folder / "demo"
        aws.pomona("demo", folder, "--images-only", "--views", 1)
        path = sorted((folder / "images").rglob("*.jpg"))[0]
        key = str(path.relative_to(folder / "images"))
        s3.put_object(Bucket="cold-in", Key=key, Body=path.read_bytes())
        listed = s3.list_objects_v2(Bucket="cold-in")["Contents"][0]
        line = json.dumps({"key": key, "etag": listed["ETag"].strip('"'), "size": listed["Size"], "modified": 0}).encode() + b"\n"
        s3.put_object(Bucket="cold-out", Key="runs/cold/objects-00000.jsonl", Body=line)
        inits, firsts = [], []
        for i in range(args.rounds):
            event = {"input": "s3://cold-in/", "output": "s3://cold-out/", "work": {
                "run": "cold", "shard": f"{i:032x}", "sources": [],
                "objects": {"key": "runs/cold/objects-00000.jsonl", "offset": 0, "length": len(line)}}}
            init, first = start(aws, args, event)
            inits.append(init)
            firsts.append(first)
    medians = {"init_ms": round(statistics.median(inits), 1), "first_image_ms": round(statistics.median(firsts), 1)}
    print(json.dumps(medians))
    program = args.bootstrap.read_bytes()
    record.write("cold-start", **medians,
                 init_ms_all=[round(x, 1) for x in inits], first_image_ms_all=[round(x, 1) for x in firsts],
                 bootstrap_bytes=len(program), zip_bytes=len(zlib.compress(program, 6)))


if __name__ == "__main__":
    main()
