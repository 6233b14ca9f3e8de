"""A hub that speaks as much of the Hugging Face Hub's protocol as a download needs."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import urlsplit

GATED, MISSING = "acme/gated", "acme/missing"


@dataclass
class Hub:
    """`main` is the commit that the branch main names; every commit has the files of its folder."""

    commits: dict[str, Path]
    main: str
    broken: bool = False
    url: str = ""
    asked: list[str] = field(default_factory=list)


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    class Handler(_Handler):
        server_hub = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    server_hub: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        hub, path = self.server_hub, urlsplit(self.path).path
        hub.asked.append(path)
        if hub.broken:
            self._answer(500)
        elif GATED in path:
            self._answer(403, {"X-Error-Code": "GatedRepo"})
        elif MISSING in path:
            self._answer(404, {"X-Error-Code": "RepoNotFound"})
        elif path.startswith("/api/"):
            self._about(*path.split("/")[5:7])
        else:
            _, _, _, _, revision, name = path.split("/", 5)
            self._file(revision, hub.commits[revision] / name)

    def _about(self, what: str, revision: str) -> None:
        commit = self.server_hub.main if revision == "main" else revision
        if commit not in self.server_hub.commits:
            self._answer(404, {"X-Error-Code": "RevisionNotFound"})
            return
        files = sorted(self.server_hub.commits[commit].iterdir())
        if what == "tree":
            listed = [{"type": "file", "path": f.name, "size": f.stat().st_size, "oid": _tag(f)} for f in files]
            self._answer(200, {}, json.dumps(listed).encode())
        else:
            about = {"id": "acme/tiny", "sha": commit, "siblings": [{"rfilename": f.name} for f in files]}
            self._answer(200, {}, json.dumps(about).encode())

    def _file(self, commit: str, file: Path) -> None:
        self._answer(200, {"ETag": f'"{_tag(file)}"', "X-Repo-Commit": commit}, file.read_bytes())

    def _answer(self, status: int, headers: dict[str, str] | None = None, body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def _tag(file: Path) -> str:
    return hashlib.sha1(file.read_bytes(), usedforsecurity=False).hexdigest()
