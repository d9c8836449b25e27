"""`make lambdas`: builds the functions for deployment into .aws-sam/build and shows the progress.

`sam build` hides the output of cargo, and a first build takes more than ten minutes. So this program first runs the command that
SAM runs, and prints how far it is. Then `sam build` finds everything compiled and only copies.
"""

import os
import re
import subprocess
import sys
import threading
import time

from local_aws import ARCHITECTURE, ROOT, VENVS, build_environment

# Seconds between two lines of progress.
INTERVAL = float(os.environ.get("POMONA_BUILD_INTERVAL", "20"))
STARTED = time.monotonic()


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


def main():
    env = build_environment()
    # As SAM sets it, so that SAM finds what is built here.
    env["CARGO_TARGET_DIR"] = str(ROOT / "target")
    env |= {"CARGO_TERM_PROGRESS_WHEN": "always", "CARGO_TERM_PROGRESS_WIDTH": "120"}
    say(f"Building the functions for {ARCHITECTURE} with cargo-lambda; the first build takes minutes")
    before = time.monotonic()
    arm = ["--arm64"] if ARCHITECTURE == "arm64" else []
    run("lambda", ["cargo", "lambda", "build", "--release", *arm, "--bin", "lambda"], ROOT / "functions/lambda", env)
    size = (ROOT / "target/lambda/lambda/bootstrap").stat().st_size
    say(f"lambda: built in {time.monotonic() - before:.0f} s, {size / 1e6:.1f} MB")
    command = [VENVS / "sam/bin/sam", "build", "--template-file", template()]
    run("sam build", command, ROOT, env, shown=r"Building codeuri: .* functions: (.*)")
    say("The functions are in .aws-sam/build")


if __name__ == "__main__":
    main()
