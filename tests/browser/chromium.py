"""A Chromium for the browser tests and its driver: found, else installed, else one clear error. Never a silent skip.

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
NO_BROWSER = "Chromium (Debian: sudo apt-get install chromium; or name one: CHROMIUM=/path/to/chromium make test)"
NO_DRIVER = "Playwright's driver to start (Debian: sudo apt-get install libatomic1)"


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
    """The newest that `playwright install` has brought, where it keeps them."""
    home = Path(os.environ.get("PLAYWRIGHT_BROWSERS_PATH") or Path.home() / ".cache" / "ms-playwright")
    return max(home.glob("chromium-*/chrome-linux*/chrome"), key=lambda path: path.stat().st_mtime, default=None)


def driver_runs() -> bool:
    """Playwright's driver is a Node.js that needs libatomic, which a small Debian does not have."""
    return attempt([sys.executable, "-m", "playwright", "--version"], quiet=True)


def apt_install(*packages: str) -> bool:
    """Ask the system's package manager, as root or by sudo without a password."""
    as_root = [] if os.getuid() == 0 else ["sudo", "-n"]
    if not shutil.which("apt-get") or (as_root and not shutil.which("sudo")):
        return False
    print(f"Installing {' '.join(packages)} with apt-get…", flush=True)
    apt = [*as_root, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq"]
    return attempt([*apt, "update"]) and attempt([*apt, "install", "-y", "--no-install-recommends", *packages])


def attempt(command: list[str], *, quiet: bool = False) -> bool:
    """Run it, its ordinary output hidden, and its errors too if `quiet`."""
    errors = subprocess.DEVNULL if quiet else None
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors, check=False)
    return done.returncode == 0


def main() -> int:
    """Make sure that both are there; 1, and one line for each that cannot be had, where they are not."""
    named = os.environ.get("CHROMIUM")
    if not driver_runs():
        apt_install("libatomic1")
    if not find() and not named and not (apt_install("chromium", "fonts-dejavu-core") and find()):
        print("Installing Chromium with Playwright…", flush=True)
        attempt([sys.executable, "-m", "playwright", "install", "chromium"])
    missing = [text for text, there in ((NO_DRIVER, driver_runs()), (NO_BROWSER, find())) if not there]
    for text in missing:
        print(f"tests/browser: expected {text}", file=sys.stderr)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
