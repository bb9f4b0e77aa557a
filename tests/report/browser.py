"""Debian's Chromium without a window: what a page looks like once its scripts have run, and what they write to the console."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")


@dataclass(frozen=True)
class Opened:
    """A page after its scripts have run."""

    document: str
    console: list[str]
    """Lines that the page wrote to the console: errors of scripts among them."""


def open_page(page: Path, profile: Path) -> Opened:
    """Open a file without a network.

    Args:
        page: an HTML file.
        profile: an empty directory for the browser.
    """
    browser = next((found for name in NAMES if (found := shutil.which(name))), None)
    if browser is None:
        pytest.skip("no Chromium on this machine: `apt-get install -y chromium` (.ci/run does it)")
    arguments = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", f"--user-data-dir={profile}"]
    network = ["--host-resolver-rules=MAP * ~NOTFOUND", "--proxy-server=127.0.0.1:9", "--disable-background-networking"]
    shown = ["--enable-logging=stderr", "--virtual-time-budget=20000", "--dump-dom", page.absolute().as_uri()]
    done = subprocess.run([browser, *arguments, *network, *shown], capture_output=True, text=True, timeout=120, check=True)
    return Opened(done.stdout, [line for line in done.stderr.splitlines() if ":CONSOLE" in line])
