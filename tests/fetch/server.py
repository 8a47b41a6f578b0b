"""A Hugging Face hub on this machine: the few addresses that its library asks, and its faults."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "ab" * 20
LARGE = (".safetensors", ".parquet")  # what a hub keeps as large files, known by their sha256


@dataclass
class Hub:
    """Repositories by `models/me/mine` or `datasets/me/asked`: their files, and who is let in."""

    repositories: dict[str, dict[str, bytes]]
    gated: set[str] = field(default_factory=set)
    token: str = "hf_letmein"
    cut: dict[str, list[int]] = field(default_factory=dict)  # path -> bytes until each break
    changed: dict[str, bytes] = field(default_factory=dict)  # path -> what is sent in its place
    failing: dict[str, int] = field(default_factory=dict)  # path -> status
    asked: Counter = field(default_factory=Counter)  # (method, path of a file)
    ranges: list[str] = field(default_factory=list)
    commit: str = COMMIT
    address: str = ""

    def start(self) -> ThreadingHTTPServer:
        hub = self

        class Handler(_Handler):
            of = hub

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.address = f"http://127.0.0.1:{server.server_port}"
        return server


class _Handler(BaseHTTPRequestHandler):
    of: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        self._answer(body=True)

    def do_HEAD(self):
        self._answer(body=False)

    def _answer(self, *, body: bool):
        parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        if parts[0] == "api" and len(parts) < 4:
            self._say(404, {})
            return
        if parts[0] == "api":
            self._api(*parts[1:])
            return
        key = "/".join(parts[:3]) if parts[0] == "datasets" else "/".join(["models", *parts[:2]])
        rest = parts[3:] if parts[0] == "datasets" else parts[2:]
        path = "/".join(rest[2:])  # resolve, revision, path
        files = self._files(key)
        if files is None:
            return
        if self._refused(key):
            return
        if path not in files:
            self._say(404, {"X-Error-Code": "EntryNotFound"})
            return
        self._file(path, files[path], body)

    def _api(self, kind, owner, name, *rest):
        key = f"{kind}/{owner}/{name}"
        files = self._files(key)
        if files is None:
            return
        if rest[:1] == ("auth-check",):
            if not self._refused(key):
                self._say(200, {}, b"{}")
            return
        if len(rest) > 1 and rest[1] not in ("main", self.of.commit):
            self._say(404, {"X-Error-Code": "RevisionNotFound"})
        elif rest[:1] == ("tree",):
            rows = [_entry(path, content) for path, content in files.items()]
            self._say(200, {}, json.dumps(rows).encode())
        else:
            found = {"id": f"{owner}/{name}", "sha": self.of.commit, "siblings": []}
            self._say(200, {}, json.dumps(found).encode())

    def _files(self, key):
        if key not in self.of.repositories:  # the hub does not say whether it is there
            self._say(401, {"X-Error-Code": "RepoNotFound"})
            return None
        return self.of.repositories[key]

    def _refused(self, key) -> bool:
        allowed = self.headers.get("authorization") == f"Bearer {self.of.token}"
        if key in self.of.gated and not allowed:
            self._say(401, {"X-Error-Code": "GatedRepo"})
            return True
        return False

    def _file(self, path, content, body):
        self.of.asked[self.command, path] += 1
        entry = _entry(path, content)
        tag = entry["lfs"]["oid"] if "lfs" in entry else entry["oid"]
        headers = {"ETag": f'"{tag}"', "X-Repo-Commit": self.of.commit, "Accept-Ranges": "bytes"}
        if not body:
            self._say(200, headers | {"Content-Length": str(len(content))})
            return
        if path in self.of.failing:
            self._say(self.of.failing[path], {})
            return
        content = self.of.changed.get(path, content)
        first, total = 0, len(content)
        if given := self.headers.get("range"):
            self.of.ranges.append(given)
            first = int(given.removeprefix("bytes=").partition("-")[0])
            headers["Content-Range"] = f"bytes {first}-{total - 1}/{total}"
        self.send_response(206 if first else 200)
        for name, value in (headers | {"Content-Length": str(total - first)}).items():
            self.send_header(name, value)
        self.end_headers()
        breaks = self.of.cut.get(path)
        if breaks:
            self.wfile.write(content[first : breaks.pop(0)])
            self.wfile.flush()
            self.close_connection = True
            self.connection.shutdown(2)
            return
        self.wfile.write(content[first:])

    def _say(self, status, headers, content=b""):
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(content))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _entry(path: str, content: bytes) -> dict:
    git = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
    found = {"type": "file", "path": path, "size": len(content), "oid": git}
    if path.endswith(LARGE):
        sha = hashlib.sha256(content).hexdigest()
        found["lfs"] = {"oid": sha, "size": len(content), "pointerSize": 130}
    return found
