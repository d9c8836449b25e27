"""The first minute of a user: the wheel in an environment with nothing but pyarrow, without Rust and without a network.

    clean.py WHEEL
"""

import os
import pathlib
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
import zipfile

LARGEST = 40_000_000


def main():
    (wheel,) = map(pathlib.Path, sys.argv[1:])
    assert wheel.stat().st_size < LARGEST, f"{wheel} has {wheel.stat().st_size} bytes"
    assert "-cp311-abi3-" in wheel.name, wheel.name
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata = next(archive.read(name).decode() for name in names if name.endswith("METADATA"))
    needed = [line for line in metadata.splitlines() if line.startswith("Requires-Dist") and "extra" not in line]
    assert needed == ["Requires-Dist: pyarrow>=16"], needed
    assert {"pomona/py.typed", "pomona/_pomona.pyi"} <= set(names), names
    for program in ("cargo", "rustc"):
        assert shutil.which(program) is None, f"{program} is on the PATH"

    program = pathlib.Path(sysconfig.get_path("scripts")) / "pomona"
    # A network of its own has no way out, where the machine allows one.
    alone = ["unshare", "--map-root-user", "--net"]
    is_allowed = shutil.which("unshare") and subprocess.run([*alone, "true"], capture_output=True).returncode == 0
    prefix = alone if is_allowed else []
    with tempfile.TemporaryDirectory() as work:
        started = time.monotonic()
        subprocess.run([*prefix, program, "demo", "first"], cwd=work, check=True)
        seconds = time.monotonic() - started
        report = pathlib.Path(work, "first/results/report.html")
        assert report.stat().st_size > 100_000
        check = "import pomona; d = pomona.open('first/results'); assert d.images == 560 and d.features().num_rows == 560; print(d)"
        subprocess.run([*prefix, sys.executable, "-c", check], cwd=work, check=True)
        assert not any(name in os.environ for name in ("CARGO_HOME", "RUSTUP_HOME"))
        print(f"demo and report: {seconds:.1f} s, {'without' if prefix else 'with'} a network; wheel: {wheel.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
