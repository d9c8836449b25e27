"""Builds the wheel for arm64, installs it for an arm64 Python under qemu-user, and compares what it writes with the program of this
machine, byte for byte.

    make test-wheel-arm64       (or: wheel_arm64.py --pomona target/release/pomona --wheel .venv/wheel/bin --zig .venv/cargo-lambda/bin)

Needs qemu-user-static and an arm64 Python, which Debian and Ubuntu have:

    dpkg --add-architecture arm64 && apt-get update && apt-get install qemu-user-static

The packages of that Python are downloaded and unpacked, not installed. It is not part of `make test`, because the build takes as
long as all of it.
"""

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))
from arm64 import QEMU, TARGET, compare  # noqa: E402

LIBRARIES = ["libc6", "libgcc-s1", "libstdc++6", "zlib1g", "libexpat1", "libffi8", "libssl3", "libssl3t64", "libbz2-1.0", "liblzma5"]
TABLES = ["shards", "groups", "moments", "basis", "pca", "classifier", "predictions", "duplicates", "outliers", "index"]


def build(wheel, zig):
    """The wheel for arm64, linked for an old glibc by zig, as cargo-lambda does. The Python in `zig` has the package `ziglang`."""
    env = {**os.environ, "CARGO_TARGET_DIR": str(TARGET), "PATH": f"{zig.resolve()}:{os.environ['PATH']}"}
    command = [wheel / "maturin", "build", "--quiet", "--release", "--locked", "--zig", "--target", "aarch64-unknown-linux-gnu"]
    subprocess.run([*command, "--manifest-path", ROOT / "python/Cargo.toml", "--out", TARGET / "dist"], env=env, check=True)
    (built,) = (TARGET / "dist").glob("*aarch64.whl")
    size = built.stat().st_size / 1e6
    print(f"{built.name}: {size:.1f} MB")
    assert size < 40
    return built


def python(folder):
    """Unpacks an arm64 Python with what it is linked to; returns the command that runs it."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    names = [f"{name}:arm64" for name in [*LIBRARIES, f"python{version}-minimal", f"libpython{version}-minimal", f"libpython{version}-stdlib"]]
    known = [name for name in names if subprocess.run(["apt-cache", "show", name], capture_output=True).returncode == 0]
    subprocess.run(["apt-get", "download", "-qq", *known], cwd=folder, check=True)
    root = folder / "root"
    for package in folder.glob("*.deb"):
        subprocess.run(["dpkg", "-x", package, root], check=True)
    if not (root / "lib").exists():
        (root / "lib").symlink_to("usr/lib")
    return [QEMU, "-L", root, root / f"usr/bin/python{version}"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pomona", type=pathlib.Path, required=True)
    parser.add_argument("--wheel", type=pathlib.Path, required=True, help="folder with maturin")
    parser.add_argument("--zig", type=pathlib.Path, required=True, help="folder with a Python that has ziglang")
    parser.add_argument("--views", type=int, default=4)
    args = parser.parse_args()
    built = build(args.wheel, args.zig)
    with tempfile.TemporaryDirectory() as work:
        work = pathlib.Path(work)
        arm, packages = python(work), work / "packages"
        install = ["pip", "install", "--quiet", "--target", packages, "--only-binary", ":all:",
                   *(f"--platform=manylinux_2_{glibc}_aarch64" for glibc in (28, 17)), "--python-version", f"{sys.version_info.major}.{sys.version_info.minor}"]
        subprocess.run([sys.executable, "-m", *install, "pyarrow"], check=True)
        subprocess.run([sys.executable, "-m", *install, "--no-deps", built], check=True)
        subprocess.run([args.pomona, "demo", work, "--images-only", "--views", str(args.views)], check=True)
        subprocess.run([args.pomona, "run", work / "images", work / "x86_64"], check=True, stdout=subprocess.DEVNULL)
        run = f"import pomona; print(pomona.run({str(work / 'images')!r}, {str(work / 'arm64')!r}, progress=False))"
        subprocess.run([*arm, "-c", run], check=True, env={"PYTHONPATH": str(packages), "HOME": str(work), "PATH": "/usr/bin:/bin"})
        compare(work / "x86_64", work / "arm64", TABLES)


if __name__ == "__main__":
    main()
