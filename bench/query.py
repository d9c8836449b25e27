"""The function `query`: from the start of its process to the first prediction, and the predictions after it.

    query.py --lambda PATH [--peer PYTHON] [--images 1000] [--requests 1000] [--starts 15]

`environment.py` plays Lambda's runtime API: it starts the program with the handler `query`, hands it the events of a function URL,
and takes the time until the answer is back. The data set is that of the demo, in a local S3 (ministack), which answers in some
milliseconds, as S3 does. A photo has 100 x 100 pixels. Beside it, with `--peer`: ONNX Runtime with the same model in Python, for the
start of its process with the first inference, and for the next ones, without HTTP and without a data set. Raw runs go to bench/runs/.
"""

import argparse
import base64
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
import record
from environment import Environment

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests/aws"))
BUCKET = "pomona-results"


def event(path, query, body):
    """An event of a function URL, payload format 2.0."""
    return {
        "version": "2.0", "routeKey": "$default", "rawPath": path, "rawQueryString": query, "headers": {"content-type": "image/jpeg"},
        "requestContext": {"accountId": "anonymous", "apiId": "u", "domainName": "u.lambda-url.us-east-1.on.aws", "domainPrefix": "u",
                           "http": {"method": "POST", "path": path, "protocol": "HTTP/1.1", "sourceIp": "127.0.0.1", "userAgent": "bench"},
                           "requestId": "1", "routeKey": "$default", "stage": "$default", "time": "01/Jan/2026:00:00:00 +0000", "timeEpoch": 0},
        "body": base64.b64encode(body).decode(), "isBase64Encoded": True,
    }


def ask(environment, asked):
    """Milliseconds until the answer."""
    start = time.perf_counter()
    answer = environment.ask(asked)
    assert answer["statusCode"] == 200, answer
    return (environment.answered - start) * 1e3


def peer(python, photo):
    """ONNX Runtime: milliseconds of the process with one photo, and of each further photo."""
    code = f"""
import io, time, sys
import numpy as np, onnxruntime
from PIL import Image
session = onnxruntime.InferenceSession({str(ROOT / "models/mobilenetv2_1.00_224.onnx")!r})
name = session.get_inputs()[0].name
shape = session.get_inputs()[0].shape
def features():
    image = Image.open({str(photo)!r}).convert("RGB").resize((224, 224))
    pixels = (np.asarray(image, np.float32) / 127.5 - 1)[None]
    return session.run(None, {{name: pixels if shape[-1] == 3 else pixels.transpose(0, 3, 1, 2).copy()}})
features()
print("first", flush=True)
for _ in range(ROUNDS):
    start = time.perf_counter(); features(); print((time.perf_counter() - start) * 1e3)
"""
    firsts = []
    for _ in range(5):
        start = time.perf_counter()
        subprocess.run([python, "-c", code.replace("ROUNDS", "0")], check=True, capture_output=True)
        firsts.append((time.perf_counter() - start) * 1e3)
    done = subprocess.run([python, "-c", code.replace("ROUNDS", "200")], check=True, capture_output=True, text=True)
    times = [float(line) for line in done.stdout.split()[1:]]
    return {"first_ms": statistics.median(firsts), "p50_ms": statistics.median(times), "p99_ms": float(np.percentile(times, 99))}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lambda", dest="program", required=True)
    parser.add_argument("--peer", help="a Python with onnxruntime and Pillow")
    parser.add_argument("--images", type=int, default=1_000)
    parser.add_argument("--requests", type=int, default=1_000)
    parser.add_argument("--starts", type=int, default=15)
    args = parser.parse_args()
    from local_aws import LocalAws

    with LocalAws() as aws, tempfile.TemporaryDirectory() as folder:
        aws.client("s3").create_bucket(Bucket=BUCKET)
        aws.pomona("demo", folder, "--images-only", "--views", max(3, args.images // 14))
        output = f"s3://{BUCKET}/pomona/query/"
        aws.pomona("run", f"{folder}/images", output)
        photo = sorted(pathlib.Path(folder, "images").rglob("*.jpg"))[5]
        variables = aws.environment() | {"OUTPUT": output, "PHOTOS": f"s3://{BUCKET}/pomona-query-photos/", "AWS_REGION": "us-east-1"}
        predict, search = event("/predict", "", photo.read_bytes()), event("/search", "n=10", photo.read_bytes())
        cold, colder = [], []
        for number in range(2 * args.starts):
            environment = Environment(args.program, "query", variables)
            ask(environment, predict if number % 2 else search)
            (cold if number % 2 else colder).append((environment.answered - environment.started) * 1e3)
            environment.stop()
        environment, warm = Environment(args.program, "query", variables), {}
        for name, asked in [("predict", predict), ("search", search)]:
            ask(environment, asked)
            times = [ask(environment, asked) for _ in range(args.requests)]
            warm[name] = {"p50_ms": statistics.median(times), "p99_ms": float(np.percentile(times, 99)), "max_ms": max(times)}
        environment.stop()
        images = json.loads(aws.pomona("show", output, "--json").stdout)["images"]
        found = {"images": images, "cold_predict_ms": sorted(cold), "cold_search_ms": sorted(colder), "warm": warm}
        if args.peer:
            found["onnxruntime"] = peer(args.peer, photo)
    print(json.dumps({**found, "cold_predict_ms": statistics.median(cold), "cold_search_ms": statistics.median(colder)}, indent=1))
    record.write("query", found=found)


if __name__ == "__main__":
    main()
