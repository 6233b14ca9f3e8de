"""What EC2's instance metadata service tells a spot machine of its end, by IMDSv2: without a token it says nothing."""

import json
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

NOTICE = {"action": "terminate", "time": "2026-01-01T00:02:00Z"}


@dataclass
class Metadata:
    """Of one instance. `tokens` may be forgotten, as they expire."""

    url: str = ""
    notice: dict[str, str] | None = None
    tokens: set[str] = field(default_factory=set)
    asked: list[int] = field(default_factory=list)  # the statuses that were answered


@contextmanager
def metadata() -> Iterator[Metadata]:
    there = Metadata()

    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            lasting = int(self.headers.get("X-aws-ec2-metadata-token-ttl-seconds", "0"))
            if self.path != "/latest/api/token" or not 0 < lasting <= 21600:
                return self.answer(400)
            token = secrets.token_urlsafe(16)
            there.tokens.add(token)
            self.answer(200, token.encode())

        def do_GET(self) -> None:
            if self.headers.get("X-aws-ec2-metadata-token") not in there.tokens:
                return self.answer(401)
            if self.path != "/latest/meta-data/spot/instance-action" or there.notice is None:
                return self.answer(404)
            self.answer(200, json.dumps(there.notice).encode())

        def answer(self, status: int, body: bytes = b"") -> None:
            there.asked.append(status)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nothing is printed."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    there.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield there
    finally:
        server.shutdown()
        server.server_close()
