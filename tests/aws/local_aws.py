"""A local AWS for tests: ministack as a process of its own, SAM and cargo-lambda beside it.

Everything comes from the virtual environments that the Makefile makes (.venv/ministack, .venv/sam, .venv/cargo-lambda).
"""

import contextlib
import os
import pathlib
import platform
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request

import boto3
from botocore.config import Config

ROOT = pathlib.Path(__file__).parents[2]
VENVS = pathlib.Path(os.environ.get("POMONA_VENVS", ROOT / ".venv"))
POMONA = ROOT / "target/release/pomona"
REGION = "us-east-1"
# The functions run on this machine, so they are built for its processor.
ARCHITECTURE = "arm64" if platform.machine() in ("aarch64", "arm64") else "x86_64"


def build_environment():
    """The environment for commands that build. Of the caller's variables, it has those that cargo needs."""
    keep = ("PATH", "HOME", "LANG", "CARGO_HOME", "RUSTUP_HOME", "RUSTUP_TOOLCHAIN", "TMPDIR", "SSL_CERT_FILE", "CARGO_NET_OFFLINE")
    env = {name: os.environ[name] for name in keep if name in os.environ}
    env |= {"AWS_DEFAULT_REGION": REGION, "SAM_CLI_TELEMETRY": "0", "SAM_CLI_BETA_RUST_CARGO_LAMBDA": "1"}
    env["PATH"] = f"{VENVS / 'cargo-lambda/bin'}:{env['PATH']}"
    return env


def free_port():
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class LocalAws:
    """Starts ministack on a free port of 127.0.0.1 and stops it, and what it started, at the end."""

    def __init__(self, proxy=None, concurrency=None):
        """With a proxy, the functions reach AWS through it; with a strict one, ministack asks it what is allowed
        (strict_ministack.py). `concurrency` is the account's limit of functions at the same time."""
        self.port = free_port()
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="pomona-aws-"))
        self.log = open(self.folder / "ministack.log", "w")
        temporary = self.folder / "tmp"
        temporary.mkdir()
        # Functions inherit this environment; nothing of the caller's gets in, and no file that a function of an earlier one left.
        env = {
            "PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(self.folder), "TMPDIR": str(temporary), "LANG": "C.UTF-8", "GATEWAY_PORT": str(self.port),
            "BIND_HOST": "127.0.0.1", "LAMBDA_EXECUTOR": "local",
            "AWS_ENDPOINT_URL": proxy.endpoint if proxy else self.endpoint,
        }
        command = [VENVS / "ministack/bin/ministack"]
        if concurrency:
            env["LAMBDA_ACCOUNT_CONCURRENCY"] = str(concurrency)
        if proxy:
            proxy.target = self.port
        if hasattr(proxy, "learn"):
            env |= {"POMONA_STRICT": proxy.endpoint, "POMONA_VENVS": str(VENVS)}
            command = [VENVS / "ministack/bin/python", pathlib.Path(__file__).with_name("strict_ministack.py")]
        self.process = subprocess.Popen(command, env=env, cwd=self.folder, stdout=self.log, stderr=self.log, start_new_session=True)
        self.wait_until_ready()

    def wait_until_ready(self):
        for _ in range(200):
            if self.process.poll() is not None:
                break
            with contextlib.suppress(OSError):
                urllib.request.urlopen(self.endpoint + "/_ministack/health", timeout=2)
                return
            time.sleep(0.1)
        raise RuntimeError(f"ministack did not start; see {self.log.name}")

    def environment(self):
        """The environment for commands that connect to it."""
        return build_environment() | {"AWS_ENDPOINT_URL": self.endpoint, "AWS_ACCESS_KEY_ID": "test",
                                      "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true"}

    def client(self, service, endpoint=None, key="test", attempts=3):
        """A client of root; `key` is the access key of somebody else (iam.access_key)."""
        return boto3.client(service, endpoint_url=endpoint or self.endpoint, region_name=REGION, aws_access_key_id=key,
                            aws_secret_access_key="test", config=Config(retries={"max_attempts": attempts}))

    def sam(self, *args):
        done = subprocess.run([VENVS / "sam/bin/sam", *args], cwd=ROOT, env=self.environment(), capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"sam {args[0]} failed:\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}")
        return done.stdout + done.stderr

    def pomona(self, *args, check=True, **environment):
        done = subprocess.run([POMONA, *map(str, args)], env=self.environment() | environment, capture_output=True, text=True)
        if check and done.returncode != 0:
            raise RuntimeError(f"pomona {args} failed: {done.stderr}")
        return done

    def stop(self):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.log.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()
