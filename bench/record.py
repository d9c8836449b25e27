"""Writes raw runs: one file in bench/runs/ for each, with a description of the machine."""

import datetime
import json
import os
import pathlib
import platform
import sys
from importlib import metadata

RUNS = pathlib.Path(__file__).parent / "runs"
PACKAGES = ["faiss-cpu", "lancedb", "numpy", "onnxruntime", "openvino", "pillow", "pyarrow", "pyspark", "tensorflow-cpu", "usearch"]


def version(package):
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def machine():
    cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "?")
    flags = next((line for line in open("/proc/cpuinfo") if line.startswith("flags")), "")
    return {
        "cpu": cpu, "cores": len(os.sched_getaffinity(0)),
        "simd": [f for f in ("avx2", "fma", "avx512f", "amx_tile") if f" {f} " in flags + " "],
        "memory_gb": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30),
        "system": platform.platform(), "python": platform.python_version(),
        "packages": {package: version(package) for package in PACKAGES if version(package)},
    }


def command():
    """The command of this process, without the folders of paths: they are those of one machine."""
    arguments = (pathlib.Path(argument).name if "/" in argument else argument for argument in sys.argv[1:])
    return " ".join([f"bench/{pathlib.Path(sys.argv[0]).name}", *arguments])


def write(name, **fields):
    """Writes one run and prints where."""
    now = datetime.datetime.now(datetime.timezone.utc)
    out = RUNS / f"{now:%Y-%m-%dT%H%M%SZ}-{name}.json"
    out.parent.mkdir(exist_ok=True)
    record = {"command": command(), "when": now.isoformat(timespec="seconds"), "machine": machine(), **fields}
    out.write_text(json.dumps(record, indent=1) + "\n")
    print(f"\nraw runs: {out.relative_to(RUNS.parent.parent)}")
