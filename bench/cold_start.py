"""Measures the cold start of the featurize function with a local S3: from the start of its process to its first request
for work (Lambda's init phase, which loads program and model), and from there to the features of the first image.

    make e2e && .venv/ministack/bin/python bench/cold_start.py

`--handler plan` measures the init phase of another function, and `--bootstrap` another program. `--separate FOLDER` compares
the one program with programs of one function each (FOLDER/plan, FOLDER/featurize, ...), which releases up to 0.1.0 had: sizes,
init phases and the first answer of each function, in alternation. `environment.py` plays Lambda's runtime API. Raw runs go to bench/runs/.
"""

import argparse
import hashlib
import json
import pathlib
import statistics
import sys
import zlib

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests/aws"))
import record  # noqa: E402
from environment import Environment  # noqa: E402
from local_aws import LocalAws  # noqa: E402

BOOTSTRAP = ROOT / "target/lambda/lambda/bootstrap"


def start(aws, bootstrap, handler, event):
    """Starts the function once; returns milliseconds of init and of the first invocation."""
    # The trigger's, from the template.
    of_trigger = {"INPUT": "s3://cold-in/", "OUTPUT": "s3://cold-out/", "SETTINGS": "{}",
                  "STATE_MACHINE_ARN": "arn:aws:states:us-east-1:0:stateMachine:none"}
    environment = Environment(bootstrap, handler, aws.environment() | of_trigger)
    answer = environment.ask(event)
    environment.stop()
    if handler == "featurize":
        assert answer["inferred"] == 1, answer
    return (environment.asked - environment.started) * 1e3, (environment.answered - environment.asked) * 1e3


def sizes(program):
    """Bytes of a program and of its zip."""
    content = program.read_bytes()
    return {"bootstrap_bytes": len(content), "zip_bytes": len(zlib.compress(content, 6))}


def compare(aws, args, event):
    """Measures each function as one of many in a program, and as a program of its own."""
    rows = {}
    for name in ("plan", "featurize", "reduce", "project", "publish", "trigger", "vacuum"):
        own, found = args.separate / name, {"one": [], "separate": []}
        for i in range(args.rounds):
            for which, program in (("one", args.bootstrap), ("separate", own)):
                found[which].append(start(aws, program, name, event(f"{name} {which} {i}")))
        rows[name] = {which: {"init_ms": round(statistics.median(init for init, _ in times), 1),
                              "answer_ms": round(statistics.median(init + answer for init, answer in times), 1),
                              "all": [[round(value, 1) for value in pair] for pair in times]} for which, times in found.items()}
        rows[name]["separate"] |= sizes(own)
        print(name, {which: [row["init_ms"], row["answer_ms"]] for which, row in rows[name].items()}, flush=True)
    record.write("cold-start-separate", functions=rows, one=sizes(args.bootstrap))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--handler", default="featurize")
    parser.add_argument("--bootstrap", type=pathlib.Path, default=BOOTSTRAP)
    parser.add_argument("--separate", type=pathlib.Path)
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

        def event(name):
            return {"input": "s3://cold-in/", "output": "s3://cold-out/", "work": {
                "run": "cold", "shard": hashlib.sha256(name.encode()).hexdigest()[:32], "sources": [],
                "objects": {"key": "runs/cold/objects-00000.jsonl", "offset": 0, "length": len(line)}}}

        if args.separate:
            return compare(aws, args, event)
        inits, firsts = [], []
        for i in range(args.rounds):
            init, first = start(aws, args.bootstrap, args.handler, event(str(i)))
            inits.append(init)
            firsts.append(first)
    medians = {"init_ms": round(statistics.median(inits), 1), "first_image_ms": round(statistics.median(firsts), 1)}
    print(json.dumps(medians))
    record.write("cold-start", **medians,
                 init_ms_all=[round(x, 1) for x in inits], first_image_ms_all=[round(x, 1) for x in firsts],
                 **sizes(args.bootstrap))
    return None


if __name__ == "__main__":
    main()
