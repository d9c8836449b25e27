"""Builds the arm64 packages as for deployment and compares the output of the arm64 program, under qemu-user, byte for byte.

    make test-arm64       (or: arm64.py --pomona target/release/pomona --cargo-lambda .venv/cargo-lambda/bin)

Needs: apt-get install qemu-user-static libc6-arm64-cross libgcc-s1-arm64-cross. It is not part of `make test`, because the
build takes as long as all of `make test`; then 140 images take 7 minutes under emulation.
"""

import argparse
import filecmp
import os
import pathlib
import subprocess
import sys
import tempfile
import zipfile

ROOT = pathlib.Path(__file__).parents[1]
TARGET = ROOT / "target/arm64"
SYSROOT = "/usr/aarch64-linux-gnu"
QEMU = "qemu-aarch64-static"
# The tables that readers use. Manifests and records of runs contain times.
TABLES = ["shards", "groups", "moments", "basis", "pca", "csv", "rejects", "classifier", "predictions"]


def build(cargo_lambda):
    """Builds the functions, their zip, and the program; returns the program."""
    env = {**os.environ, "CARGO_TARGET_DIR": str(TARGET), "PATH": f"{cargo_lambda.resolve()}:{os.environ['PATH']}"}
    packages = ["-p", "pomona", "--bin", "pomona", "-p", "pomona-lambda", "--bin", "lambda"]
    subprocess.run(["cargo", "lambda", "build", "--release", "--arm64", *packages], cwd=ROOT, env=env, check=True)
    bootstrap = TARGET / "lambda/lambda/bootstrap"
    kind = subprocess.run(["readelf", "-h", bootstrap], capture_output=True, text=True, check=True).stdout
    assert "AArch64" in kind, f"{bootstrap} is not for arm64"
    package = TARGET / "lambda.zip"
    with zipfile.ZipFile(package, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(bootstrap, "bootstrap")
    size = package.stat().st_size
    print(f"functions: {size / 1e6:.1f} MB zipped")
    assert size < 32_000_000
    # cargo-lambda treats the program as one more function.
    return TARGET / "lambda/pomona/bootstrap"


def compare(one, other, names):
    """Ends the program unless two outputs have the same files, byte for byte, in the folders with these names."""
    def files(folder):
        return {str(p.relative_to(folder)): p for name in names for p in sorted((folder / name).rglob("*")) if p.is_file()}

    here, there = files(one), files(other)
    assert here.keys() == there.keys() and here, sorted(here.keys() ^ there.keys())
    different = [name for name in here if not filecmp.cmp(here[name], there[name], shallow=False)]
    if different:
        sys.exit(f"these differ: {different}")
    print(f"{len(here)} files are the same, byte for byte")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pomona", type=pathlib.Path, required=True)
    parser.add_argument("--cargo-lambda", type=pathlib.Path, required=True)
    parser.add_argument("--views", type=int, default=10)
    args = parser.parse_args()
    arm = build(args.cargo_lambda)
    with tempfile.TemporaryDirectory() as work:
        work = pathlib.Path(work)
        subprocess.run([args.pomona, "demo", work, "--images-only", "--views", str(args.views)], check=True)
        for name, command in (("x86_64", [args.pomona]), ("arm64", [QEMU, "-L", SYSROOT, arm])):
            subprocess.run([*command, "run", work / "images", work / name, "--csv"], check=True, stdout=subprocess.DEVNULL)
        compare(work / "x86_64", work / "arm64", TABLES)


if __name__ == "__main__":
    main()
