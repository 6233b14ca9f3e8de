"""A teacher that answers from a file, behind the wire protocols of the Bedrock Runtime and of OpenAI's chat completions.

    python -m reflux.local.recorded_teacher --answers teacher.jsonl --port 4020

The file is one that `reflux.recorded` reads. A request is answered by the entry whose prompt stands in its last user
message: with the first answer where that is all of the message, with a later one where more is asked (a correction).
`POST /_control` makes it misbehave, `GET /_log` tells what it served (`DELETE` forgets it), `GET /_health` that it is there.
"""

import argparse
import json
import random
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from reflux.local import teacher_wire
from reflux.local.teacher_wire import Asked, WireError
from reflux.recorded import Entry, Recording, digest, entries

LONGEST_BODY = 4_000_000
CONNECTIVITY = "Generate a C struct for a TSN gate control list entry."
CONNECTIVITY_ANSWER = """\
```c
struct gate_control_entry {
    uint8_t gate_states;
    uint32_t time_interval_ns;
};
```"""


class Behaviour(BaseModel):
    """How to misbehave. Shares are of calls, drawn by `seed`; `per_second` is a token bucket with a burst of `burst`.

    `deny_after`: access is denied from so many served calls on. `unauthorized`: nobody's key is known. `used_up`: the
    account is empty. `telltale`: errors repeat the key. `cut`: the answer breaks off. `malformed`: no JSON. `body`: what is
    sent in place of the answer's JSON.
    """

    model_config = ConfigDict(extra="forbid")

    throttle: float = 0.0
    per_second: float | None = None
    burst: int = 1
    latency: float = 0.0
    deny: bool = False
    deny_after: int | None = None
    unauthorized: bool = False
    used_up: bool = False
    unknown_model: bool = False
    telltale: bool = False
    unavailable: float = 0.0
    cut: float = 0.0
    malformed: float = 0.0
    empty: float = 0.0
    answer: str | None = None
    body: Any = None
    seed: int = 0


class RecordedTeacher:
    """The answers, the behaviour asked for, and the log of calls. Thread-safe."""

    def __init__(self, found: Iterable[Entry]) -> None:
        self.recording = Recording(found)
        self.lock = threading.Lock()
        self.log: list[dict[str, Any]] = []
        self.served = 0
        self.behave(Behaviour())

    def behave(self, behaviour: Behaviour) -> None:
        with self.lock:
            self.behaviour = behaviour
            self.random = random.Random(behaviour.seed)  # noqa: S311 - repeatable misbehaviour
            self.tokens, self.filled = float(behaviour.burst), time.monotonic()

    def ask(self, text: str) -> tuple[str, str]:
        """The id of the prompt and the answer to it. Raises WireError."""
        behaviour = self.behaviour
        time.sleep(behaviour.latency)
        if behaviour.answer is not None:
            return "", behaviour.answer
        found = self.recording.answer(text)
        if found is None and text.startswith(CONNECTIVITY):
            return "", CONNECTIVITY_ANSWER
        if found is None:
            raise WireError(400, "ValidationException", f"There is no recorded answer to: {text[:200]}")
        return found

    def refusal(self, asked: Asked) -> WireError | None:
        """How this call is turned away at the door, if it is."""
        with self.lock:
            behaviour = self.behaviour
            if behaviour.unauthorized:
                return WireError(401, "UnrecognizedClientException", "The key or token is not known.")
            if behaviour.used_up:
                return WireError(429, "insufficient_quota", "You exceeded your current quota.")
            if behaviour.unknown_model:
                status, kind = (404, "model_not_found") if asked.operation == "chat" else (400, "ValidationException")
                return WireError(status, kind, "The provided model identifier is invalid.")
            if behaviour.deny or (behaviour.deny_after is not None and self.served >= behaviour.deny_after):
                message = f"User is not authorized to perform: bedrock:InvokeModel on resource: {asked.model}"
                return WireError(403, "AccessDeniedException", message)
            if self.random.random() < behaviour.throttle or not self._token():
                return WireError(429, "ThrottlingException", "Too many requests, please wait before trying again.")
            if self.random.random() < behaviour.unavailable:
                return WireError(503, "ServiceUnavailableException", "The teacher is unable to process your request.")
        return None

    def chance(self, share: float) -> bool:
        with self.lock:
            return self.random.random() < share

    def write(self, **call: Any) -> None:
        with self.lock:
            self.served += call["status"] == 200
            self.log.append({"at": time.time(), **call})

    def forget(self) -> None:
        with self.lock:
            self.log.clear()
            self.served = 0

    def _token(self) -> bool:
        rate = self.behaviour.per_second
        if rate is None:
            return True
        now = time.monotonic()
        self.tokens = min(float(self.behaviour.burst), self.tokens + (now - self.filled) * rate)
        self.filled = now
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True


def read_entries(paths: Iterable[Path]) -> list[Entry]:
    """The entries of the files. ValueError names the lines that are wrong."""
    found = []
    for path in paths:
        try:
            found += entries(_lines(path))
        except ValueError as error:
            raise ValueError(f"{path}, {error}") from error
    return found


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    with path.open("rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(LONGEST_BODY + 1), b""), 1):
            if len(line) > LONGEST_BODY:
                raise ValueError(f"line {number}: longer than {LONGEST_BODY} bytes")
            yield number, line


def serve(teacher: RecordedTeacher, host: str = "127.0.0.1", port: int = 0) -> ThreadingHTTPServer:
    """A server that is bound already; call its `serve_forever`."""

    class Handler(_Handler):
        pass

    Handler.teacher = teacher
    server = _Server((host, port), Handler)
    return server


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m reflux.local.recorded_teacher", description=__doc__.split("\n")[0])
    parser.add_argument("--answers", type=Path, action="append", default=[], metavar="FILE", help="JSONL; may be given again")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=4020)
    arguments = parser.parse_args()
    try:
        teacher = RecordedTeacher(read_entries(arguments.answers))
        server = serve(teacher, arguments.host, arguments.port)
    except (OSError, ValueError) as error:
        sys.exit(f"recorded teacher: {error}")
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    host, port = server.server_address[:2]
    sys.stderr.write(f"recorded teacher: {len(teacher.recording)} prompts at http://{host!s}:{port}\n")
    try:
        server.serve_forever(poll_interval=0.1)
    except KeyboardInterrupt:
        pass
    server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 512
    allow_reuse_address = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away in the middle is no news."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    teacher: RecordedTeacher

    def do_GET(self) -> None:
        if self.path == "/_health":
            self._send(200, {"status": "ok", "prompts": len(self.teacher.recording)})
        elif self.path == "/_log":
            with self.teacher.lock:
                self._send(200, {"calls": list(self.teacher.log)})
        elif self.path == "/v1/models":
            self._send(200, teacher_wire.MODELS)
        else:
            self._send(404, {"message": "There is nothing here."})

    def do_DELETE(self) -> None:
        if self.path != "/_log":
            self._send(404, {"message": "There is nothing here."})
            return
        self.teacher.forget()
        self._send(200, {"status": "ok"})

    def do_POST(self) -> None:
        raw = self.rfile.read(min(int(self.headers.get("Content-Length") or 0), LONGEST_BODY))
        try:
            body = json.loads(raw or b"{}")
            if self.path == "/_control":
                self.teacher.behave(Behaviour.model_validate(body))
                self._send(200, {"status": "ok"})
            elif asked := Asked.read(self.path, body):
                self._answer(asked)
            else:
                self._fail(WireError(404, "UnknownOperationException", f"There is no {self.path}"))
        except WireError as error:
            self._fail(error)
        except ValueError as error:
            self._fail(WireError(400, "ValidationException", f"Malformed request: {error}"))

    def _answer(self, asked: Asked) -> None:
        teacher, began = self.teacher, time.monotonic()
        behaviour = teacher.behaviour
        call: dict[str, Any] = {
            "model": asked.model,
            "operation": asked.operation,
            "prompt_id": "",
            "text": digest(asked.text),
            "key": bool(self.headers.get("Authorization")),
        }
        try:
            if refusal := teacher.refusal(asked):
                raise refusal
            call["prompt_id"], text = teacher.ask(asked.text)
        except WireError as error:
            teacher.write(**call, status=error.status, error=error.kind)
            raise
        text = "" if teacher.chance(behaviour.empty) else text
        reply = teacher_wire.answer(asked, text, int(1000 * (time.monotonic() - began)))
        if teacher.chance(behaviour.cut):
            teacher.write(**call, status=0, error="cut")
            self._break_off(json.dumps(reply).encode())
        elif teacher.chance(behaviour.malformed):
            teacher.write(**call, status=0, error="malformed")
            self._send_bytes(200, b'{"output": {"message": ')
        else:
            teacher.write(**call, status=200, error=None)
            self._send(200, reply if behaviour.body is None else behaviour.body)

    def _break_off(self, body: bytes) -> None:
        """Promise the whole body, send half of it, and hang up."""
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2])
        self.wfile.flush()
        self.close_connection = True

    def _fail(self, error: WireError) -> None:
        if self.teacher.behaviour.telltale:
            error.message += f" You sent: {self.headers.get('Authorization')}"
        body, headers = teacher_wire.error(self.path, error)
        self._send(error.status, body, headers)

    def _send(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        self._send_bytes(status, json.dumps(value).encode(), headers)

    def _send_bytes(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("x-amzn-RequestId", digest(f"{time.time_ns()}"))
        for name, text in (headers or {}).items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """The log is served at /_log."""


if __name__ == "__main__":
    main()
