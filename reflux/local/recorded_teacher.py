"""A teacher that answers from a file, behind the wire protocol of the Bedrock Runtime.

    python -m reflux.local.recorded_teacher --answers teacher.jsonl --port 4020

Each line of the file is {"prompt_id", "prompt", "answers": [...]}. A request is answered by the entry whose prompt stands
in its last user message: with the first answer where that is all of the message, with a later one where more is asked
(a correction). `POST /_control` makes it misbehave, `GET /_log` tells what it served
(`DELETE` forgets it), `GET /_health` that it is there.
"""

import argparse
import hashlib
import json
import random
import re
import signal
import sys
import threading
import time
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from pydantic import BaseModel, ConfigDict

ROUTE = re.compile(r"^/model/([^/]+)/(converse|invoke)$")
LONGEST_BODY = 4_000_000


class Entry(BaseModel):
    model_config = ConfigDict(extra="ignore")

    prompt_id: str = ""
    prompt: str
    answers: tuple[str, ...]


class Behaviour(BaseModel):
    """How to misbehave. Shares are of calls, drawn by `seed`; `per_second` is a token bucket with a burst of `burst`.

    `deny_after`: access is denied from so many served calls on. `cut`: the answer breaks off. `malformed`: no JSON.
    """

    model_config = ConfigDict(extra="forbid")

    throttle: float = 0.0
    per_second: float | None = None
    burst: int = 1
    latency: float = 0.0
    deny: bool = False
    deny_after: int | None = None
    unknown_model: bool = False
    unavailable: float = 0.0
    cut: float = 0.0
    malformed: float = 0.0
    empty: float = 0.0
    answer: str | None = None
    seed: int = 0


class WireError(Exception):
    def __init__(self, status: int, kind: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.message = message


class RecordedTeacher:
    """The answers, the behaviour asked for, and the log of calls. Thread-safe."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self.entries = sorted(entries, key=lambda entry: len(entry.prompt), reverse=True)
        self.lock = threading.Lock()
        self.log: list[dict[str, Any]] = []
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
        if behaviour.unknown_model:
            raise WireError(400, "ValidationException", "The provided model identifier is invalid.")
        if behaviour.answer is not None:
            return "", behaviour.answer
        entry = next((entry for entry in self.entries if entry.prompt in text), None)
        if entry is None and text.startswith(CONNECTIVITY):
            return "", CONNECTIVITY_ANSWER
        if entry is None:
            raise WireError(400, "ValidationException", f"There is no recorded answer to: {text[:200]}")
        return entry.prompt_id, _variant(entry, text)

    def refusal(self, model: str) -> WireError | None:
        """How this call is turned away at the door, if it is."""
        with self.lock:
            behaviour, served = self.behaviour, sum(call["status"] == 200 for call in self.log)
            if behaviour.deny or (behaviour.deny_after is not None and served >= behaviour.deny_after):
                message = f"User is not authorized to perform: bedrock:InvokeModel on resource: {model}"
                return WireError(403, "AccessDeniedException", message)
            if self.random.random() < behaviour.throttle or not self._token():
                return WireError(429, "ThrottlingException", "Too many requests, please wait before trying again.")
            if self.random.random() < behaviour.unavailable:
                return WireError(503, "ServiceUnavailableException", "Bedrock is unable to process your request.")
        return None

    def chance(self, share: float) -> bool:
        with self.lock:
            return self.random.random() < share

    def write(self, **call: Any) -> None:
        with self.lock:
            self.log.append({"at": time.time(), **call})

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


CONNECTIVITY = "Generate a C struct for a TSN gate control list entry."
CONNECTIVITY_ANSWER = """\
```c
struct gate_control_entry {
    uint8_t gate_states;
    uint32_t time_interval_ns;
};
```"""


def read_entries(paths: Iterable[Path]) -> list[Entry]:
    """The entries of the files. ValueError names the line that is wrong."""
    entries = []
    for path in paths:
        for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
            if line.strip():
                try:
                    entries.append(Entry.model_validate_json(line))
                except ValueError as error:
                    raise ValueError(f"{path}, line {number}: {error}") from error
    return entries


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
    sys.stderr.write(f"recorded teacher: {len(teacher.entries)} prompts at http://{host!s}:{port}\n")
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
            self._send(200, {"status": "ok", "prompts": len(self.teacher.entries)})
        elif self.path == "/_log":
            with self.teacher.lock:
                self._send(200, {"calls": list(self.teacher.log)})
        else:
            self._send(404, {"message": "There is nothing here."})

    def do_DELETE(self) -> None:
        if self.path != "/_log":
            self._send(404, {"message": "There is nothing here."})
            return
        with self.teacher.lock:
            self.teacher.log.clear()
        self._send(200, {"status": "ok"})

    def do_POST(self) -> None:
        raw = self.rfile.read(min(int(self.headers.get("Content-Length") or 0), LONGEST_BODY))
        route = ROUTE.match(self.path)
        try:
            body = json.loads(raw or b"{}")
            if self.path == "/_control":
                self.teacher.behave(Behaviour.model_validate(body))
                self._send(200, {"status": "ok"})
            elif route:
                self._model(unquote(route.group(1)), route.group(2), body)
            else:
                self._fail(WireError(404, "UnknownOperationException", f"There is no {self.path}"))
        except WireError as error:
            self._fail(error)
        except ValueError as error:
            self._fail(WireError(400, "ValidationException", f"Malformed request: {error}"))

    def _model(self, model: str, operation: str, body: dict[str, Any]) -> None:
        teacher, began = self.teacher, time.monotonic()
        system, text, most = _request(operation, body)
        call: dict[str, Any] = {"model": model, "operation": operation, "prompt_id": "", "text": digest(text)}
        try:
            if refusal := teacher.refusal(model):
                raise refusal
            call["prompt_id"], answer = teacher.ask(text)
        except WireError as error:
            teacher.write(**call, status=error.status, error=error.kind)
            raise
        answer = "" if teacher.chance(teacher.behaviour.empty) else answer
        cut = tokens(answer) > most
        answer = answer[: most * CHARACTERS_A_TOKEN] if cut else answer
        usage = tokens(system + text), tokens(answer)
        reply = _response(operation, model, answer, cut, usage, int(1000 * (time.monotonic() - began)))
        if teacher.chance(teacher.behaviour.cut):
            teacher.write(**call, status=0, error="cut")
            self._break_off(json.dumps(reply).encode())
        elif teacher.chance(teacher.behaviour.malformed):
            teacher.write(**call, status=0, error="malformed")
            self._send_bytes(200, b'{"output": {"message": ')
        else:
            teacher.write(**call, status=200, error=None)
            self._send(200, reply)

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
        self._send(error.status, {"message": error.message}, {"x-amzn-ErrorType": f"{error.kind}:http://internal.amazon.com/"})

    def _send(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        self._send_bytes(status, json.dumps(value).encode(), headers)

    def _send_bytes(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("x-amzn-RequestId", hashlib.sha256(f"{time.time_ns()}".encode()).hexdigest()[:32])
        for name, text in (headers or {}).items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """The log is served at /_log."""


CHARACTERS_A_TOKEN = 4


def tokens(text: str) -> int:
    """About as many tokens as a large model would count."""
    return -(-len(text) // CHARACTERS_A_TOKEN)


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _variant(entry: Entry, text: str) -> str:
    """The first answer to the bare prompt. More than the prompt is a correction: then an answer that is not in the text."""
    if text.strip() == entry.prompt.strip():
        return entry.answers[0]
    start = int(digest(text), 16) % len(entry.answers)
    turned = entry.answers[start:] + entry.answers[:start]
    return next((answer for answer in turned if _code(answer) not in text), turned[0])


def _code(answer: str) -> str:
    return re.sub(r"^```\w*\n|\n```$", "", answer.strip())


def _request(operation: str, body: dict[str, Any]) -> tuple[str, str, int]:
    """System prompt, last user message and token limit of a request in either form."""
    users = [message for message in body.get("messages", ()) if message.get("role") == "user"]
    if not users:
        raise WireError(400, "ValidationException", "The request needs a message of the user.")
    if operation == "invoke" and "anthropic_version" not in body:
        raise WireError(400, "ValidationException", "anthropic_version: Field required")
    limit = body.get("inferenceConfig", {}).get("maxTokens", 4096) if operation == "converse" else body.get("max_tokens", 4096)
    return _text(body.get("system", "")), _text(users[-1].get("content", "")), int(limit)


def _text(content: Any) -> str:
    return content if isinstance(content, str) else "".join(block.get("text", "") for block in content)


def _response(operation: str, model: str, answer: str, cut: bool, usage: tuple[int, int], milliseconds: int) -> dict[str, Any]:
    asked, answered = usage
    if operation == "converse":
        return {
            "metrics": {"latencyMs": milliseconds},
            "output": {"message": {"content": [{"text": answer}], "role": "assistant"}},
            "stopReason": "max_tokens" if cut else "end_turn",
            "usage": {"inputTokens": asked, "outputTokens": answered, "totalTokens": asked + answered},
        }
    return {
        "id": f"msg_{digest(answer)}",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [{"type": "text", "text": answer}],
        "stop_reason": "max_tokens" if cut else "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": asked, "output_tokens": answered},
    }


if __name__ == "__main__":
    main()
