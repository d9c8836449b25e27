"""Regenerates tests/golden/release-0.1.0: a small output of release 0.1.0, whose format is format 1.

    git worktree add /tmp/0.1.0 a587203 && cargo build --release --manifest-path /tmp/0.1.0/Cargo.toml
    python3 tests/golden/release_010.py /tmp/0.1.0/target/release/pomona

Python needs no packages. `images/` is the input and `output/` has two versions of it. Between the two runs, one image was
added, one was removed and one was changed; `images/` is as the second run saw it. One file is not an image and is a
reject of both versions.

The etag of a file in a folder is its modification time and size, and git does not keep times. `mtimes.json` has the time
of each image in ns. A test copies `images` and `output` to a temporary folder, sets the times and runs there: the
manifests name the input as it was given, `images`. The pictures and the page of each run are deleted, because they are
three quarters of the bytes and no other file depends on them. Names of runs and the times in manifests change with each
run of this script; shards, sums, bases and tables do not.
"""

import json
import os
import pathlib
import shutil
import struct
import subprocess
import sys
import zlib

HERE = pathlib.Path(__file__).resolve().parent
OUT = HERE / "release-0.1.0"
# The folders are the labels; the first two images have none.
NAMES = [f"{folder}{i:02}.png" for folder, count in [("", 2), ("apple/", 8), ("fruit/kiwi/", 8), ("Äpfel rot/", 6)]
         for i in range(count)]
BROKEN, ADDED, REMOVED, CHANGED = "apple/broken.png", "apple/08.png", "fruit/kiwi/03.png", "Äpfel rot/02.png"
FIRST_TIME = 1_700_000_000_000_000_000


def png(seed):
    """A PNG of 16 x 12 pixels. Different seeds give different pixels, by the formula of tests/common/mod.rs."""
    mask, rows = (1 << 64) - 1, []
    for y in range(12):
        row = bytearray([0])
        for x in range(16):
            mixed, turn = (seed + 1) * 0x9E3779B97F4A7C15 & mask, (x * 5 + y * 11) % 64
            mixed = (mixed << turn | mixed >> 64 - turn) & mask
            row += bytes([mixed & 255, mixed >> 17 & 255, mixed >> 40 & 255])
        rows.append(bytes(row))
    chunk = lambda kind, body: struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))  # noqa: E731
    header = struct.pack(">IIBBBBB", 16, 12, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"".join(rows), 9)) + chunk(b"IEND", b"")


def write(name, body, mtimes):
    path = OUT / "images" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(body)
    mtimes[name] = FIRST_TIME + 1_000_000_007 * (len(mtimes) + (name in mtimes) * 1_000)
    os.utime(path, ns=(mtimes[name], mtimes[name]))


def run(program):
    # A relative input, because 0.1.0 records it as it is written. Small shards, so that the second run reuses some.
    options = ["--model", "../../models/tiny.onnx", "--shard-size", "6", "--components", "5", "--csv"]
    subprocess.run([program, "run", "images", "output", *options, "--max-reject-percent", "5"], cwd=OUT, check=True)


def main():
    program = pathlib.Path(sys.argv[1]).resolve()
    shutil.rmtree(OUT, ignore_errors=True)
    mtimes = {}
    for seed, name in enumerate(NAMES):
        write(name, png(seed), mtimes)
    write(BROKEN, b"This is not a PNG.\n", mtimes)
    run(program)
    write(ADDED, png(100), mtimes)
    write(CHANGED, png(101), mtimes)
    (OUT / "images" / REMOVED).unlink()
    del mtimes[REMOVED]
    run(program)
    for name in ["report.html", "scatter.png", "scree.png"]:
        for file in OUT.glob(f"output/runs/*/{name}"):
            file.unlink()
    (OUT / "mtimes.json").write_text(json.dumps(mtimes, ensure_ascii=False, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
