"""docs/openapi.json is this API's; and the API, fuzzed from it, gives no 5xx and no answer that the document does not know."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from reflux.client import Client
from reflux.local.stack import Stack
from tests.environment import ROOT

DOCUMENT = ROOT / "docs" / "openapi.json"
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "response_headers_conformance",
    "unsupported_method",
)
# What each key may call. The facts of the task protocol have so many forms that only a draw of them fits the time.
OPERATOR = ["--exclude-tag", "workers", "--phases", "examples,coverage,fuzzing", "--max-examples", "6"]
NOBODY_LOOKS = """
[[operations]]
include-path = "/v1/previews"
checks.not_a_server_error.expected-statuses = ["2xx", "3xx", "4xx", 503]
"""  # there is no teacher worker
WORKER = ["--include-tag", "workers", "--phases", "examples,fuzzing", "--max-examples", "15"]


def test_the_document_is_committed(client: Client) -> None:
    remedy = "python -m services.api.openapi > docs/openapi.json"
    assert client.http.get("/openapi.json").json() == json.loads(DOCUMENT.read_text()), remedy


def test_every_call_tells_its_errors(client: Client) -> None:
    document = client.http.get("/openapi.json").json()
    names = [operation["operationId"] for call in document["paths"].values() for operation in call.values()]
    assert len(set(names)) == len(names)
    for path, call in document["paths"].items():
        for operation in call.values():
            errors = {status: told for status, told in operation["responses"].items() if status >= "400"}
            assert path in ("/healthz", "/readyz") or {"401", "403", "429", "503"} <= set(errors), operation["operationId"]
            assert all(set(told["content"]) == {"application/problem+json"} for told in errors.values())


@pytest.fixture(scope="module")
def fuzzed(ground: Path) -> Iterator[Stack]:
    with Stack(ground / "fuzzed", workers={}, durable=False, env={"REFLUX_CALLS_PER_MINUTE": "0"}) as stack:
        yield stack


@pytest.mark.parametrize(("role", "calls"), [("operator", OPERATOR), ("worker", WORKER)])
def test_schemathesis_finds_nothing(fuzzed: Stack, tmp_path: Path, role: str, calls: list[str]) -> None:
    program = Path(sys.executable).with_name("schemathesis")
    command = [program, "--no-color", "run", DOCUMENT, "--url", fuzzed.api_url, "--seed", "1", *calls]
    command += ["--checks", ",".join(CHECKS), "--header", f"Authorization: Bearer {fuzzed.keys[role]}"]
    command += ["--continue-on-failure", "--no-shrink", "--request-timeout", "20"]
    (tmp_path / "schemathesis.toml").write_text(NOBODY_LOOKS)
    told = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stdout[-6000:] + told.stderr[-2000:]
    cases = re.search(r"(\d+) generated, \1 passed", told.stdout)
    assert cases
    assert int(cases[1]) > 100
    assert "Traceback" not in (fuzzed.folder / "logs" / "api.log").read_text()
    with Client(fuzzed.api_url, fuzzed.keys["operator"]) as client:
        assert client.runs(limit=1).data is not None, "the key still opens"
