"""A Chromium for the browser tests: found, else installed, else one clear error. Never a silent skip.

`make test` runs this file; the tests call `find()` and start what it names with `ARGS`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
ARGS = [
    "--no-sandbox",  # root has no sandbox; the pages are our own
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",  # it is to talk to the server under test and to nobody else
    "--disable-component-update",
    "--disable-sync",
]
MISSING = (
    "tests/browser: expected Chromium, found none and could install none.\n"
    "Install it (Debian: sudo apt-get install chromium), or name one: CHROMIUM=/path/to/chromium make test"
)


def find() -> Path | None:
    """The browser's executable: $CHROMIUM, one on the path, or the one that Playwright installed; None without any."""
    if named := os.environ.get("CHROMIUM"):
        return Path(named) if runs(Path(named)) else None
    for name in NAMES:
        if (found := shutil.which(name)) and runs(Path(found)):
            return Path(found)
    own = playwrights_own()
    return own if own and runs(own) else None


def runs(browser: Path) -> bool:
    """Does it start at all? Some systems have a `chromium-browser` that only tells how to install one."""
    try:
        return subprocess.run([browser, "--version"], capture_output=True, timeout=60, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def playwrights_own() -> Path | None:
    """Where Playwright keeps the browser that `playwright install` brings."""
    from playwright.sync_api import sync_playwright  # slow, and most often not needed

    with sync_playwright() as playwright:
        path = Path(playwright.chromium.executable_path)
    return path if path.exists() else None


def install() -> None:
    """Try the system's package manager, then Playwright's own download. Says what it does; fails without a word."""
    if shutil.which("apt-get"):
        as_root = [] if os.getuid() == 0 else ["sudo", "-n"]  # -n: never ask for a password in the middle of a test run
        if not as_root or shutil.which("sudo"):
            print("Installing Chromium with apt-get…", flush=True)
            apt = [*as_root, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq"]
            if attempt([*apt, "update"]) and attempt([*apt, "install", "-y", "--no-install-recommends", "chromium"]):
                return
    print("Installing Chromium with Playwright…", flush=True)
    attempt([sys.executable, "-m", "playwright", "install", "chromium"])


def attempt(command: list[str]) -> bool:
    """Run it, its ordinary output hidden."""
    return subprocess.run(command, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL, check=False).returncode == 0


def main() -> int:
    """Make sure that there is one; 1 where there cannot be."""
    if find():
        return 0
    if not os.environ.get("CHROMIUM"):
        install()
        if find():
            return 0
    print(MISSING, file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
