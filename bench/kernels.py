"""Measures the model alone: milliseconds per image with Pomona's kernels, tract, ONNX Runtime and OpenVINO, one thread, batch 1.

    make bench-kernels              (or: kernels.py --example target/release/examples/kernel_time --rounds 5)

All get the same pictures of the demo, because the time of Pomona's kernels depends a little on the picture. The programs run
in turns, each in a process of its own that is pinned to one processor. Each round gives one median per
program and its ratio to Pomona's median in the same round. Where the processor has AVX-512, Pomona runs with AVX2 alone, too.
For scale, the sgemm of NumPy's BLAS is measured with one
thread. Raw runs go to bench/runs/.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import record
from compare import MODEL, write_images

PEER = """
import json, sys, time
import numpy as np
from PIL import Image
name, model, images = sys.argv[1], sys.argv[2], int(sys.argv[3])
pixels = [np.asarray(Image.open(file).convert("RGB").resize((224, 224), Image.BICUBIC), np.float32) for file in sys.argv[4:]]
x = [np.ascontiguousarray((p / 127.5 - 1).transpose(2, 0, 1)[None]) for p in pixels]
if name == "sgemm":
    a, b = (np.random.default_rng(2).random((1024, 1024), np.float32) for _ in range(2))
    run = lambda i: a @ b
    images //= 2
elif name == "onnxruntime":
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    run = lambda i: session.run(None, {"input": x[i % len(x)]})
else:
    import openvino
    core = openvino.Core()
    ready = core.compile_model(core.read_model(model), "CPU", {"INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"})
    request = ready.create_infer_request()
    run = lambda i: request.infer({0: x[i % len(x)]})
times = []
for i in range(images + 5):
    started = time.perf_counter()
    run(i)
    times.append((time.perf_counter() - started) * 1e3)
print(json.dumps(sorted(times[5:])[images // 2]))
"""


# From process start to the first features, with warm file caches.
FIRST = """
import sys
import numpy as np, onnxruntime
from PIL import Image
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
x = np.asarray(Image.open(sys.argv[2]).convert("RGB").resize((224, 224)), np.float32) / 127.5 - 1
print(session.run(None, {"input": np.ascontiguousarray(x.transpose(2, 0, 1)[None])})[0].sum())
"""


def start_times(example, image, rounds):
    """Milliseconds from starting a process to its end, one image on the way; the programs take turns."""
    commands = {"pomona": [example, image], "onnxruntime": [sys.executable, "-c", FIRST, MODEL, image]}
    times = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            started = time.perf_counter()
            subprocess.run([str(c) for c in command], check=True, capture_output=True)
            times[name].append(round((time.perf_counter() - started) * 1e3, 1))
    return times


def pinned(command, **variables):
    env = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"} | variables
    done = subprocess.run(["taskset", "-c", str(os.sched_getaffinity(0) and max(os.sched_getaffinity(0))), *map(str, command)],
                          env=env, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(done.stderr)
    return json.loads(done.stdout.strip().splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--example", type=pathlib.Path, required=True)
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        pomona = args.example.resolve().parents[1] / "pomona"
        measure(args, sorted(write_images(pomona, pathlib.Path(work), 14).rglob("*.jpg")))


def measure(args, pictures):
    rounds = []
    for i in range(args.rounds):
        ours = pinned([args.example.resolve(), args.images, *pictures])
        row = {"pomona": ours["ms_per_image"], "tract": ours["tract_ms_per_image"], "load_ms": ours["load_ms"], "tract_load_ms": ours["tract_load_ms"]}
        if "avx512f" in record.machine()["simd"]:
            # Lambda promises no more.
            row["pomona_avx2"] = pinned([args.example.resolve(), args.images, *pictures], POMONA_INSTRUCTIONS="avx2")["ms_per_image"]
        for name in ("onnxruntime", "openvino", "sgemm"):
            row[name] = pinned([sys.executable, "-c", PEER, name, MODEL, args.images, *pictures])
        row["sgemm_gflop_per_s"] = 2 * 1.024**3 / (row.pop("sgemm") / 1e3)
        row["pomona_gflop_per_s"] = ours["gflop_per_s"]
        rounds.append({k: round(v, 3) for k, v in row.items()})
        print(f"round {i + 1}: {rounds[-1]}", flush=True)
    median = lambda f: round(statistics.median(map(f, rounds)), 3)  # noqa: E731
    summary = {name: {"ms_per_image": median(lambda r: r[name]), "ratio_to_pomona": median(lambda r: r[name] / r["pomona"])}
               for name in ("pomona", "pomona_avx2", "onnxruntime", "openvino", "tract") if name in rounds[0]}
    summary["share_of_sgemm"] = median(lambda r: r["pomona_gflop_per_s"] / r["sgemm_gflop_per_s"])
    starts = start_times(args.example.resolve().parent / "first_feature", pictures[0], 15)
    summary["start_ms"] = {name: statistics.median(each) for name, each in starts.items()}
    for name, row in summary.items():
        print(f"{name:16} {row}")
    record.write("kernels", rounds=rounds, starts=starts, summary=summary)


if __name__ == "__main__":
    main()
