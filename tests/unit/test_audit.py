"""`make audit`: pip-audit against a database of vulnerabilities that speaks OSV's protocol, and against none."""

import http.server
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy.audit import verdict
from reflux.local.servers import free_port
from tests.environment import ROOT

HOLE = {
    "id": "PYSEC-2018-28",
    "summary": "A header goes to another host",
    "modified": "2024-01-01T00:00:00Z",
    "affected": [
        {
            "package": {"name": "requests", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "2.20.0"}]}],
            "versions": ["2.19.0"],
        }
    ],
}


class Osv(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        holes = [HOLE] if (asked["package"]["name"], asked["version"]) == ("requests", "2.19.0") else []
        body = json.dumps({"vulns": holes} if holes else {}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Osv) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1/query"
        server.shutdown()


def audit(folder: Path, pinned: str, url: str, *more: str) -> subprocess.CompletedProcess[str]:
    (folder / "pinned.txt").write_text(pinned)
    words = ["-r", str(folder / "pinned.txt"), "-s", "osv", "--osv-url", url, "--cache-dir", str(folder / "cache"), *more]
    return subprocess.run(
        [sys.executable, str(ROOT / "deploy" / "audit.py"), *words], capture_output=True, text=True, check=False
    )


def test_a_known_hole_is_named_and_fails(database: str, tmp_path: Path) -> None:
    told = audit(tmp_path, "requests==2.19.0\nidna==3.10\n", database)
    assert told.returncode == 1, told.stderr
    assert "audit: requests 2.19.0: PYSEC-2018-28, mended in 2.20.0" in told.stdout
    assert "2 packages audited, 1 known vulnerabilities" in told.stdout


def test_a_database_that_is_away_is_never_a_clean_bill(tmp_path: Path) -> None:
    nobody = f"http://127.0.0.1:{free_port()}/v1/query"
    told = audit(tmp_path, "requests==2.19.0\n", nobody, "--unreachable-is-told")
    assert (told.returncode, "NOTHING WAS AUDITED" in told.stdout) == (0, True), told.stderr


def test_packages_of_which_nothing_is_known_are_told() -> None:
    skipped = {"name": "a", "skip_reason": "Dependency not found on PyPI and could not be audited: a (1)"}
    whole = {"name": "b", "version": "1", "vulns": []}
    assert verdict([skipped], [])[1] == 2
    assert verdict([], ["ERROR: no road"])[1] == 2
    assert verdict([skipped, whole], []) == (
        ["not known to the database, so not audited: a", "1 packages audited, 0 known vulnerabilities"],
        0,
    )
