"""Debian's Chromium, headless, as tests and pictures open it."""

import os
import shutil

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]


def launch(playwright):
    """A browser; CHROMIUM in the environment names another one than the system's."""
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    assert found, "no Chromium on this machine: apt-get install chromium (or set CHROMIUM)"
    return playwright.chromium.launch(executable_path=found, args=FLAGS)
