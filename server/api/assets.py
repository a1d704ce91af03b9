"""The files a page is made of, ready to be sent: read once, hashed once, compressed once.

All stand under one path that carries the hash of their contents, so that a browser may keep them for ever and a new
version is a new path; modules that import each other by relative paths stay together. Held in memory: nothing is
read, and no path is joined, while serving.
"""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

from server.http.problems import NotFound

KINDS = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".json": "application/json; charset=utf-8",
}
FOR_EVER = "public, max-age=31536000, immutable"


@dataclass(frozen=True)
class Asset:
    """One file as it goes out."""

    kind: str
    body: bytes
    packed: bytes  # gzip; empty where it would not help


class Assets:
    """Everything below one folder."""

    def __init__(self, folder: Path) -> None:
        self._files: dict[str, Asset] = {}
        digest = hashlib.sha256()
        for path in sorted(folder.rglob("*")):
            if path.is_file() and path.suffix in KINDS:
                body = path.read_bytes()
                name = path.relative_to(folder).as_posix()
                digest.update(f"{name}\0{len(body)}\0".encode() + body)
                packed = gzip.compress(body, 9, mtime=0)
                self._files[name] = Asset(KINDS[path.suffix], body, packed if len(packed) < len(body) else b"")
        self.hash = digest.hexdigest()[:16]

    def url(self, name: str) -> str:
        """Where `name` is to be had. Raises KeyError for a file that is not there: a defect of a template."""
        self._files[name]
        return f"/static/{self.hash}/{name}"

    def names(self) -> list[str]:
        """All files, by path."""
        return list(self._files)

    def answer(self, request: web.Request) -> web.Response:
        """The file that `request` (`/static/{hash}/{name}`) asks for. Raises NotFound."""
        asset = self._files.get(request.match_info["name"])
        if asset is None or request.match_info["hash"] != self.hash:
            raise NotFound()
        headers = {"Content-Type": asset.kind, "Cache-Control": FOR_EVER, "Vary": "Accept-Encoding"}
        if asset.packed and "gzip" in request.headers.get("Accept-Encoding", ""):
            return web.Response(body=asset.packed, headers=headers | {"Content-Encoding": "gzip"})
        return web.Response(body=asset.body, headers=headers)
