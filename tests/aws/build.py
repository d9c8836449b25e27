"""`make lambdas`: builds the functions for deployment into .aws-sam/build and shows the progress.

`sam build` hides the output of cargo, and a first build takes more than ten minutes. So this program first runs the command that
SAM runs, and prints how far it is. Then `sam build` finds everything compiled and only copies.

With `--host` (`make lambdas-host`), the program is compiled with the crates of `make build`, which takes less than a minute after
it. It then needs the C library of this machine, so it is for tests here; everything else is the same. cargo-lambda links against
that of Amazon Linux, with crates of its own.
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import zlib

import yaml
from local_aws import ARCHITECTURE, ROOT, VENVS, build_environment

# Seconds between two lines of progress.
INTERVAL = float(os.environ.get("POMONA_BUILD_INTERVAL", "20"))
STARTED = time.monotonic()
# A new environment downloads and unpacks the zip. 7 MB are tract, for models of users.
ZIP_BYTES = 32_000_000
# Where cargo-lambda puts the program, and SAM looks for it.
BOOTSTRAP = ROOT / "target/lambda/lambda/bootstrap"


def template():
    """The template for this machine's processor. It is the one of the repository unless that is for another one."""
    line = "    Architectures: [{}]\n"
    text = (ROOT / "template.yaml").read_text()
    if line.format(ARCHITECTURE) in text:
        return ROOT / "template.yaml"
    other = line.format("x86_64" if ARCHITECTURE == "arm64" else "arm64")
    if text.count(other) != 1:
        sys.exit("template.yaml does not say in one place which processor it is for")
    # Beside the other one, because its paths are relative.
    here = ROOT / f".template-{ARCHITECTURE}.yaml"
    here.write_text(text.replace(other, line.format(ARCHITECTURE)))
    return here


def say(text):
    seconds = int(time.monotonic() - STARTED)
    print(f"[{seconds // 60:2}:{seconds % 60:02}] {text}", flush=True)


def progress(line):
    """What a line of cargo's output says about the progress, or None."""
    if found := re.search(r"Building \[.*?\] (\d+)/(\d+)(?:: (.*))?", line):
        done, total, crates = found.groups()
        return f"{done} of {total} crates" + (f", now {crates.strip()}" if crates else "")
    if found := re.match(r"\s*(?:Downloading|Downloaded|Compiling|Updating|Blocking) .*", line):
        return found.group().strip()
    return None


def run(name, command, folder, env, shown=None):
    """Runs a command; prints its progress at intervals, and its last lines if it fails.

    `shown` is a pattern for lines of which the group is printed at once.
    """
    process = subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    lines, last = [], ["starting"]

    def read():
        line = b""
        # Cargo's progress bar ends in a carriage return.
        while byte := process.stdout.read(1):
            if byte not in b"\r\n":
                line += byte
                continue
            text, line = line.decode(errors="replace"), b""
            if (at := progress(text)) is not None:
                last[0] = at
            if shown and (found := re.match(shown, text)):
                say(f"{name}: {found.group(1)}")
            if text.strip() and "Building [" not in text:
                lines.append(text)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    while reader.is_alive():
        reader.join(INTERVAL)
        if reader.is_alive():
            say(f"{name}: {last[0]}")
    if process.wait() != 0:
        print("\n".join(lines[-200:]), flush=True)
        sys.exit(f"{' '.join(map(str, command))} failed in {folder}")


# The field e_machine of the ELF header, by the name of Lambda.
MACHINES = {62: "x86_64", 183: "arm64"}


def machine_of(program):
    """The processor that a program is for, from the first bytes of its file."""
    if program[:4] != b"\x7fELF" or len(program) < 20:
        return "no Linux program"
    machine = int.from_bytes(program[18:20], "little")
    return MACHINES.get(machine, f"processor {machine} of ELF")


def check_packages(folder):
    """The packages below a folder that its template.yaml has for another processor, as lines."""
    template = yaml.safe_load((folder / "template.yaml").read_text())
    common, wrong = template["Globals"]["Function"].get("Architectures"), []
    for name, resource in template["Resources"].items():
        if resource["Type"] != "AWS::Serverless::Function":
            continue
        (wanted,) = resource["Properties"].get("Architectures", common)
        with open(folder / resource["Properties"]["CodeUri"] / "bootstrap", "rb") as program:
            found = machine_of(program.read(20))
        if found != wanted:
            wrong.append(f"{name}: the program is for {found}, the template says {wanted}")
    return wrong


def build_with_cargo_lambda(env):
    arm = ["--arm64"] if ARCHITECTURE == "arm64" else []
    run("lambda", ["cargo", "lambda", "build", "--release", *arm, "--bin", "lambda"], ROOT / "functions/lambda", env)


def build_with_cargo(env, folder):
    """Puts a `cargo-lambda` that has nothing to compile before the real one."""
    # With the features of the whole workspace, as in `make build`.
    run("lambda", ["cargo", "--locked", "build", "--release", "--workspace", "--bin", "lambda"], ROOT, env)
    BOOTSTRAP.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / "target/release/lambda", BOOTSTRAP)
    command = pathlib.Path(folder) / "cargo-lambda"
    command.write_text("#!/bin/sh\nexit 0\n")
    command.chmod(0o755)
    env["PATH"] = f"{folder}:{env['PATH']}"


def main():
    env = build_environment()
    # As SAM sets it, so that SAM finds what is built here.
    env["CARGO_TARGET_DIR"] = str(ROOT / "target")
    env |= {"CARGO_TERM_PROGRESS_WHEN": "always", "CARGO_TERM_PROGRESS_WIDTH": "120"}
    host = sys.argv[1:] == ["--host"]
    say(f"Building the functions for {ARCHITECTURE} with {'cargo' if host else 'cargo-lambda; the first build takes minutes'}")
    before = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        if host:
            build_with_cargo(env, folder)
        else:
            build_with_cargo_lambda(env)
        say(f"lambda: built in {time.monotonic() - before:.0f} s, {BOOTSTRAP.stat().st_size / 1e6:.1f} MB")
        command = [VENVS / "sam/bin/sam", "build", "--template-file", template()]
        run("sam build", command, ROOT, env, shown=r"Building codeuri: .* functions: (.*)")
    if not host and (size := len(zlib.compress(BOOTSTRAP.read_bytes(), 6))) > ZIP_BYTES:
        sys.exit(f"the zip of the program has {size} bytes, more than {ZIP_BYTES}")
    if wrong := check_packages(ROOT / ".aws-sam/build"):
        sys.exit("\n".join(["the packages in .aws-sam/build cannot run", *wrong]))
    say("The functions are in .aws-sam/build")


if __name__ == "__main__":
    main()
