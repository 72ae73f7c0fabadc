"""A model hub on 127.0.0.1: the part of its HTTP API that huggingface_hub calls, in memory.

Failures are injected with `Hub.fail`: the next requests whose path matches answer otherwise.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_of_the_tests"


@dataclass
class Repository:
    """files: content by path. large: paths that are stored by SHA-256, as LFS does."""

    files: dict[str, bytes] = field(default_factory=dict)
    large: set[str] = field(default_factory=set)
    private: bool = False
    commits: list[list[str]] = field(default_factory=list)

    @property
    def commit(self) -> str:
        tree = sorted((path, _blob(content)) for path, content in self.files.items())
        return hashlib.sha1(repr((tree, self.commits)).encode()).hexdigest()


@dataclass
class Failure:
    """What a matching request gets instead, `times` times.

    cut: as ever, but the line drops after so many bytes of the answer; -1: before any answer.
    """

    method: str
    path: str
    times: int
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b"{}"
    cut: int | None = None


class Hub:
    """The state of the hub, and what was asked of it."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.failures: list[Failure] = []
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.address = ""

    def add(self, name: str, files: dict[str, bytes], large: tuple[str, ...] = ()) -> Repository:
        """Make a repository; `.shira` and `.safetensors` files are large, as on the real hub."""
        own = {path for path in files if path.endswith((".shira", ".safetensors"))}
        self.repositories[name] = Repository(dict(files), own | set(large))
        return self.repositories[name]

    def fail(self, method: str, path: str, times: int = 1, **answer: Any) -> None:
        """Answer the next `times` requests whose path matches a pattern in another way."""
        self.failures.append(Failure(method, path, times, **answer))

    def failing(self, method: str, path: str) -> Failure | None:
        for failure in self.failures:
            if failure.times and failure.method == method and re.search(failure.path, path):
                failure.times -= 1
                return failure
        return None

    def asked(self, method: str, path: str) -> list[dict[str, str]]:
        """Return the headers of all requests of a method whose path matches."""
        return [headers for m, p, headers in self.requests if m == method and re.search(path, p)]


@contextlib.contextmanager
def serving() -> Iterator[Hub]:
    """Serve a hub on a free port; its address is `hub.address`."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: object) -> None:
        """Keep quiet."""

    def do_GET(self) -> None:
        self._serve("GET")

    def do_HEAD(self) -> None:
        self._serve("HEAD")

    def do_POST(self) -> None:
        self._serve("POST")

    def do_PUT(self) -> None:
        self._serve("PUT")

    def _serve(self, method: str) -> None:
        path = unquote(urlsplit(self.path).path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = self._chunks()
        self.hub.requests.append((method, path, dict(self.headers)))
        failure = self.hub.failing(method, path)
        if failure and failure.cut is None:
            return self._answer(failure.status, failure.body, failure.headers)
        self._cut = failure.cut if failure else None
        if self._cut == -1:
            self.close_connection = True
            return None
        for wanted, pattern, action in _ROUTES:
            found = re.fullmatch(pattern, path)
            if found and method in wanted.split():
                return action(self, body, **found.groupdict())
        return self._answer(404, b'{"error": "no such address"}')

    def _chunks(self) -> bytes:
        found = b""
        while size := int(self.rfile.readline(), 16):
            found += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return found

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        """Send an answer, or the first bytes of it where the line is to be cut."""
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        cut = getattr(self, "_cut", None)
        self.wfile.write(body if cut is None else body[:cut])
        if cut is not None:
            self.close_connection = True

    def _json(self, value: object, status: int = 200) -> None:
        self._answer(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _allowed(self) -> bool:
        """Answer 401 to requests without the token."""
        allowed = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if not allowed:
            self._json({"error": "Invalid username or password."}, 401)
        return allowed

    def _repository(self, name: str) -> Repository | None:
        found = self.hub.repositories.get(name)
        hidden = found and found.private and self.headers.get("Authorization") != f"Bearer {TOKEN}"
        if found is None or hidden:
            headers = {"X-Error-Code": "RepoNotFound"}
            self._answer(404, b'{"error": "Repository not found"}', headers)
            return None
        return found

    # ---- uploads ----
    def create(self, body: bytes) -> None:
        if self._allowed():
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            new = name not in self.hub.repositories
            if new:
                private = asked.get("visibility") == "private" or bool(asked.get("private"))
                self.hub.repositories[name] = Repository(private=private)
            self._json({"url": f"{self.hub.address}/{name}"}, 200 if new else 409)

    def validate(self, body: bytes) -> None:
        text = json.loads(body)["content"]
        good = text.startswith("---\n") and "\n---\n" in text
        self._json({"warnings": [], "errors": [] if good else [{"message": "no YAML"}]})

    def preupload(self, body: bytes, name: str) -> None:
        if self._allowed() and self._repository(name):
            files = json.loads(body)["files"]
            answer = [
                {
                    "path": file["path"],
                    "uploadMode": "regular" if file["path"].endswith((".md", ".json")) else "lfs",
                    "shouldIgnore": False,
                }
                for file in files
            ]
            self._json({"files": answer})

    def batch(self, body: bytes, name: str) -> None:
        if self._allowed():
            objects = json.loads(body)["objects"]
            for each in objects:
                if each["oid"] not in self.hub.objects:
                    href = f"{self.hub.address}/objects/{each['oid']}"
                    each["actions"] = {"upload": {"href": href}}
            self._json({"transfer": "basic", "objects": objects})

    def put(self, body: bytes, oid: str) -> None:
        if hashlib.sha256(body).hexdigest() != oid:
            return self._answer(400, b'{"error": "wrong hash"}')
        self.hub.objects[oid] = body
        return self._answer(200, b"")

    def commit(self, body: bytes, name: str) -> None:
        repository = self._repository(name) if self._allowed() else None
        if repository is None:
            return
        paths = []
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                repository.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                repository.files[value["path"]] = self.hub.objects[value["oid"]]
                repository.large.add(value["path"])
            else:
                continue
            paths.append(value["path"])
        repository.commits.append(paths)
        self._json({"commitUrl": f"{self.hub.address}/{name}", "commitOid": repository.commit})

    # ---- downloads ----
    def info(self, body: bytes, name: str, revision: str | None = None) -> None:
        repository = self._repository(name)
        if repository is None:
            return
        if revision not in (None, "main", repository.commit):
            headers = {"X-Error-Code": "RevisionNotFound"}
            return self._answer(404, b'{"error": "Invalid rev id"}', headers)
        siblings = [_sibling(repository, path) for path in repository.files]
        self._json(
            {
                "id": name,
                "sha": repository.commit,
                "private": repository.private,
                "tags": [],
                "siblings": siblings,
            }
        )

    def resolve(self, body: bytes, name: str, revision: str, file: str) -> None:
        repository = self._repository(name)
        if repository is None:
            return
        if file not in repository.files:
            return self._answer(404, b"{}", {"X-Error-Code": "EntryNotFound"})
        content, known = repository.files[file], _sibling(repository, file)
        start, end = 0, len(content) - 1
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if asked:
            start, end = int(asked[1]), min(end, int(asked[2] or end))
        headers = {
            "X-Repo-Commit": repository.commit,
            "ETag": f'"{known.get("lfs", {}).get("sha256", known["blobId"])}"',
            "X-Linked-Size": str(len(content)),
            **({"Content-Range": f"bytes {start}-{end}/{len(content)}"} if asked else {}),
        }
        self._answer(206 if asked else 200, content[start : end + 1], headers)


def _blob(content: bytes) -> str:
    """Return the name that git gives to a content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _sibling(repository: Repository, path: str) -> dict[str, Any]:
    content = repository.files[path]
    known: dict[str, Any] = {"rfilename": path, "size": len(content), "blobId": _blob(content)}
    if path in repository.large:
        sha256 = hashlib.sha256(content).hexdigest()
        known["lfs"] = {"sha256": sha256, "size": len(content), "pointerSize": 134}
    return known


_NAME = r"(?P<name>[^/]+/[^/]+)"
_ROUTES = [
    ("POST", "/api/repos/create", _Handler.create),
    ("POST", "/api/validate-yaml", _Handler.validate),
    ("POST", f"/api/models/{_NAME}/preupload/main", _Handler.preupload),
    ("POST", f"/{_NAME}.git/info/lfs/objects/batch", _Handler.batch),
    ("PUT", "/objects/(?P<oid>[0-9a-f]+)", _Handler.put),
    ("POST", f"/api/models/{_NAME}/commit/main", _Handler.commit),
    ("GET", f"/api/models/{_NAME}", _Handler.info),
    ("GET", f"/api/models/{_NAME}/revision/(?P<revision>.+)", _Handler.info),
    ("GET HEAD", rf"/{_NAME}/resolve/(?P<revision>[^/]+)/(?P<file>.+)", _Handler.resolve),
]
