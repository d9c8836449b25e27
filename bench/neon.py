"""Counts the instructions of an arm64 processor per image: Pomona's kernels beside ONNX Runtime, which has hand-written ones.

    make bench-neon     (or: neon.py --wheel .venv/wheel/bin --zig .venv/cargo-lambda/bin)

There is no ARM machine here, so nothing is timed: both programs run under qemu-user, which counts what they execute
(bench/instructions.c). A process with nine images is compared with one with a single image, so start and loading do not count.
For Pomona, an image is a file of 224 x 224 pixels and decoding counts; for ONNX Runtime, it is a tensor.

Needs a compiler, qemu-user (the dynamic program, which takes plugins) and an arm64 Python, which Debian and Ubuntu have:

    dpkg --add-architecture arm64 && apt-get update && apt-get install gcc qemu-user qemu-user-static

The packages of that Python are downloaded and unpacked, not installed.
"""

import argparse
import importlib.metadata
import os
import pathlib
import subprocess
import sys
import tempfile
import zipfile

import record
from compare import MODEL

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "python/tests"))
from wheel_arm64 import build, python  # noqa: E402

# Of Graviton2, on which Lambda runs functions for arm64.
PROCESSOR = "neoverse-n1"
# What ONNX Runtime reads to choose its kernels; files of the host are those of another processor.
CPUINFO = """processor\t: 0
BogoMIPS\t: 243.75
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x3
CPU part\t: 0xd0c
CPU revision\t: 1

"""
OURS = """
import struct, sys, pomona
samples = bytes(((i * 2654435761) >> 13) & 255 for i in range(224 * 224 * 3))
header = b"BM" + struct.pack("<IHHI", 54 + len(samples), 0, 0, 54)
file = header + struct.pack("<IiiHHIIiiII", 40, 224, 224, 1, 24, 0, len(samples), 0, 0, 0, 0) + samples
assert len(pomona.features([file] * int(sys.argv[1]))) == int(sys.argv[1])
"""
PEER = """
import sys, numpy as np, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[2], options, providers=["CPUExecutionProvider"])
x = np.linspace(-1, 1, 3 * 224 * 224, dtype=np.float32).reshape(1, 3, 224, 224)
for _ in range(int(sys.argv[1])):
    session.run(None, {"input": x})
"""
KINDS = ["all", "multiply_adds", "memory"]


def packages(folder, wheel):
    """Unpacks the wheel and what the two programs import, for arm64."""
    names = [f"{name}=={importlib.metadata.version(name)}" for name in ("numpy", "onnxruntime", "pyarrow")]
    platforms = [f"--platform=manylinux_2_{minor}_aarch64" for minor in (17, 27, 28)] + ["--platform=manylinux2014_aarch64"]
    subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:", *platforms,
                    "--dest", folder / "wheels", *names], check=True)
    for file in [wheel, *(folder / "wheels").glob("*.whl")]:
        zipfile.ZipFile(file).extractall(folder / "site")


def counts(command, env):
    """What the plugin prints: instructions, vector multiply-adds, and instructions that read or write memory."""
    done = subprocess.run([str(part) for part in command], env=env, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(done.stderr)
    return [int(count) for count in done.stderr.split()[-3:]]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wheel", type=pathlib.Path, required=True, help="folder with maturin")
    parser.add_argument("--zig", type=pathlib.Path, required=True, help="folder with a Python that has ziglang")
    args = parser.parse_args()
    wheel = build(args.wheel, args.zig)
    with tempfile.TemporaryDirectory() as work:
        work = pathlib.Path(work)
        plugin = work / "instructions.so"
        subprocess.run(["cc", "-O2", "-Wall", "-shared", "-fPIC", "-o", plugin, ROOT / "bench/instructions.c"], check=True)
        packages(work, wheel)
        *_, root, interpreter = python(work)
        (root / "proc").mkdir()
        (root / "proc/cpuinfo").write_text(CPUINFO)
        env = os.environ | {"QEMU_LD_PREFIX": str(root), "PYTHONHOME": str(root / "usr"), "PYTHONPATH": str(work / "site"),
                            "PYTHONHASHSEED": "0"}
        # The counters are not atomic: with one processor, the program starts one thread that computes.
        emulated = ["taskset", "-c", str(min(os.sched_getaffinity(0))), "qemu-aarch64", "-cpu", PROCESSOR, "-plugin", plugin, interpreter, "-c"]
        summary = {}
        for name, program in (("pomona", [OURS]), ("onnxruntime", [PEER])):
            # The first process compiles what Python imports.
            _, one, nine = (counts([*emulated, *program, images, MODEL], env) for images in (1, 1, 9))
            summary[name] = {kind: (b - a) // 8 for kind, a, b in zip(KINDS, one, nine)}
            print(f"{name:12} " + ", ".join(f"{kind} {count / 1e6:.1f} M" for kind, count in summary[name].items()), flush=True)
    ratio = round(summary["onnxruntime"]["all"] / summary["pomona"]["all"], 3)
    print(f"ONNX Runtime executes {ratio} times the instructions of Pomona")
    record.write("neon", processor=PROCESSOR, instructions_per_image=summary, ratio_to_pomona=ratio)


if __name__ == "__main__":
    main()
