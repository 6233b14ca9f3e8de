"""An HTTP road that can be made bad: between workers and the API, anybody and the object store, a worker and its teacher.

    with Wire() as wire:  # use wire.url instead
        wire.lead_to("http://127.0.0.1:8400")
        wire.spoil(Spoil("cut_after", "POST", r"/complete$", count=1))

Every request goes through to the real server, unless a Spoil says otherwise.
"""

import http.client
import random
import re
import socket
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal
from urllib.parse import urlsplit

How = Literal["cut_before", "cut_after", "unavailable", "twice", "late", "slow"]
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "proxy-connection"}


@dataclass
class Spoil:
    """What happens to matching requests: to the next `count` of them, or to a `share` drawn by `seed`.

    cut_before   the connection breaks before the server sees the request
    cut_after    the server does it, the caller never hears so
    unavailable  503, and the server sees nothing
    twice        the server gets it twice; the caller hears the second answer
    late, slow   the request, or the answer, waits `seconds`
    """

    how: How
    method: str = ""
    path: str = ""
    share: float = 1.0
    count: int | None = None
    seconds: float = 1.0
    seed: int = 0
    done: int = 0
    dice: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.dice = random.Random(self.seed)

    def wants(self, method: str, path: str) -> bool:
        if (self.method and method != self.method) or not re.search(self.path, path):
            return False
        if (self.count is not None and self.done >= self.count) or self.dice.random() >= self.share:
            return False
        self.done += 1
        return True


class Wire:
    """`url` is the spoilt road to a server. Thread-safe."""

    def __init__(self) -> None:
        self.upstream = urlsplit("")
        self.spoils: list[Spoil] = []
        self.lock = threading.Lock()

    def __enter__(self) -> "Wire":
        class Handler(_Handler):
            wire = self

        self.server = _Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def lead_to(self, upstream: str) -> None:
        self.upstream = urlsplit(upstream)

    def spoil(self, *spoils: Spoil) -> None:
        with self.lock:
            self.spoils = list(spoils)

    def verdict(self, method: str, path: str) -> Spoil | None:
        with self.lock:
            return next((spoil for spoil in self.spoils if spoil.wants(method, path)), None)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, request: object, client_address: object) -> None:
        """Connections break here on purpose."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    wire: Wire

    def _any(self) -> None:
        body = self._body()
        spoil = self.wire.verdict(self.command, self.path)
        how = spoil.how if spoil else ""
        if how == "cut_before":
            return self._cut()
        if how == "unavailable":
            return self._answer(503, [("Content-Type", "text/plain")], b"spoilt")
        if spoil and how == "late":
            time.sleep(spoil.seconds)
        status, headers, data = self._upstream(body)
        if how == "twice":
            status, headers, data = self._upstream(body)
        if how == "cut_after":
            return self._cut()
        if spoil and how == "slow":
            time.sleep(spoil.seconds)
        self._answer(status, headers, data)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _any

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _upstream(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        """The Host header stays the caller's own: it is part of what S3 requests are signed over."""
        assert self.wire.upstream.hostname
        connection = http.client.HTTPConnection(self.wire.upstream.hostname, self.wire.upstream.port, timeout=60)
        try:
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in HOP_BY_HOP | {"content-length"}:
                    connection.putheader(name, value)
            connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            answer = connection.getresponse()
            return answer.status, [h for h in answer.getheaders() if h[0].lower() not in HOP_BY_HOP], answer.read()
        except OSError:
            return 502, [("Content-Type", "text/plain")], b"the server behind this road is away"
        finally:
            connection.close()

    def _answer(self, status: int, headers: list[tuple[str, str]], data: bytes) -> None:
        self.send_response_only(status)
        known = {name.lower() for name, _ in headers}
        for name, value in headers:
            if name.lower() != "content-length" or self.command == "HEAD":
                self.send_header(name, value)
        if self.command != "HEAD" or "content-length" not in known:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
        self.wfile.flush()

    def _cut(self) -> None:
        """Hang up as a dead machine would: a reset, no answer."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        self.close_connection = True
        self.connection.close()

    def log_message(self, format: str, *args: object) -> None:
        """Nobody reads it."""
