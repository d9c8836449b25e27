"""Starts headless Chromium for tests and pictures."""

import os
import shutil

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]


def launch(playwright):
    """Launches the system's Chromium, or the one in the environment variable CHROMIUM."""
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    assert found, "no Chromium on this machine: apt-get install chromium (or set CHROMIUM)"
    return playwright.chromium.launch(executable_path=found, args=FLAGS)
