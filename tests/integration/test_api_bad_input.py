"""Values that parsers, Python or Postgres stumble over, in every field of every body and in every parameter: never a 5xx."""

import json
import zlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from reflux.local.stack import Stack
from reflux.spec import RunSpec
from services.api.openapi import EXAMPLES
from tests.environment import ROOT
from tests.integration.by_hand import SPEC

MARK = "@@"
BAD = [
    "1" + "0" * 400,
    "1" + "0" * 5000,
    "9223372036854775808",
    "2147483648",
    "-1",
    "1e999",
    "NaN",
    "1e308",
    r'"a\u0000b"',
    r'"\ud800"',
    r'{"\udfff": 1}',
    '"' + "x" * 20_000 + '"',
    "[" * 100_000 + "]" * 100_000,
    "null",
]
TEXTS: list[str | bytes] = ["a\0b", "1" + "0" * 400, "-1", "9223372036854775808", "NaN", "x" * 5000, b"\xed\xa0\x80", ""]


def bodies(example: Any) -> Iterator[str]:
    """The example with each of its values, one after the other, replaced by each bad one."""
    places = list(below(example))
    for number, place in enumerate(places):
        whole = json.dumps(replaced(example, place))
        # Each value in each body is too much for the time: of each place those whose turn it is, of the whole all.
        for turn, bad in enumerate(BAD):
            if not place or (number + turn) % 3 == 0:
                yield whole.replace(json.dumps(MARK), bad)


def below(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield place
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from below(inner, (*place, key))


def replaced(value: Any, place: tuple[Any, ...]) -> Any:
    if not place:
        return MARK
    copy = value.copy()
    copy[place[0]] = replaced(value[place[0]], place[1:])
    return copy


class Thrower:
    """Sends what it is told to one API, and keeps what was answered wrongly."""

    def __init__(self, stack: Stack) -> None:
        self.clients = {
            role: httpx.Client(base_url=stack.api_url, headers={"Authorization": f"Bearer {key}"}, timeout=20)
            for role, key in stack.keys.items()
        }
        self.run = self.clients["operator"].post("/v1/runs", json=SPEC).json()["id"]
        self.wrong: list[str] = []

    def close(self) -> None:
        for client in self.clients.values():
            client.close()

    def call(self, role: str, method: str, url: str, **options: Any) -> None:
        answer = self.clients[role].request(method, url, **options)
        status = answer.status_code
        if status >= 500 and '"no_worker"' not in answer.text:  # there are none here
            self.wrong.append(f"{status} {method} {url:.150} {options.get('content', '')!s:.300}")

    def url(self, path: str, name: str = "", value: str = "") -> str:
        known = {
            "run_id": self.run,
            "task_id": "1",
            "errand_id": "1",
            "key": "review-001",
            "key_id": "key_0",
            "path": "report.md",
        }
        return path.format(**(known | ({name: value} if name else {})))


@pytest.fixture(scope="module")
def thrower(control_plane_without_limit: Stack) -> Iterator[Thrower]:
    with closing(Thrower(control_plane_without_limit)) as thrower:
        yield thrower


@pytest.fixture(scope="module")
def control_plane_without_limit(ground: Path) -> Iterator[Stack]:
    with Stack(ground / "bad-input", workers={}, durable=False, env={"REFLUX_CALLS_PER_MINUTE": "0"}) as stack:
        yield stack


DOCUMENT = json.loads((ROOT / "docs" / "openapi.json").read_text())
CALLS = [
    pytest.param(path, method, operation, id=operation["operationId"])
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
]


@pytest.mark.parametrize(("path", "method", "operation"), CALLS)
def test_no_value_is_a_server_error(thrower: Thrower, path: str, method: str, operation: dict[str, Any]) -> None:
    role = "worker" if "workers" in operation["tags"] else "operator"
    name = operation["operationId"]
    thrower.wrong = []
    kind = {"Content-Type": "text/csv" if name == "datasets_upload" else "application/json"}
    example = RunSpec.model_validate(SPEC).model_dump(mode="json") if name == "runs_create" else EXAMPLES.get(name, {})
    url = thrower.url(path)
    if "requestBody" in operation:
        for body in bodies(example):
            dry = {"dry_run": "true"} if name == "runs_create" and zlib.crc32(body.encode()) % 3 else {}
            thrower.call(role, method, url, content=body.encode(), params=dry, headers=kind)
    sent = json.dumps(example).encode() if "requestBody" in operation else None
    for parameter in operation.get("parameters", ()):
        for text in TEXTS:
            if parameter["in"] == "query":
                key = "metadata[a]" if parameter["name"] == "metadata" else parameter["name"]
                thrower.call(role, method, f"{url}?{quote(key)}={quote(text)}", content=sent, headers=kind)
            elif parameter["in"] == "path" and text:
                thrower.call(role, method, thrower.url(path, parameter["name"], quote(text)), content=sent, headers=kind)
    assert not thrower.wrong


def test_the_api_is_well_afterwards(thrower: Thrower, control_plane_without_limit: Stack) -> None:
    assert thrower.clients["operator"].get("/v1/runs").status_code == 200
    assert "Traceback" not in (control_plane_without_limit.folder / "logs" / "api.log").read_text()
