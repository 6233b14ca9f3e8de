"""A real S3 server for tests: SeaweedFS in one process, with one bucket and one key."""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store

BUCKET = "reflux"
KEY_ID = "tester"
SECRET = "secret-of-the-tester"
ROLES = ("master", "volume", "filer", "s3", "admin")


@dataclass(frozen=True)
class S3:
    endpoint: str

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to use s3:// addresses on this server."""
        return {
            "AWS_ENDPOINT": self.endpoint,
            "AWS_ACCESS_KEY_ID": KEY_ID,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": "us-east-1",
        }


@contextmanager
def s3_server(folder: Path) -> Iterator[S3]:
    """Keeps everything in `folder`. Ready when it answers; RuntimeError with its log if it does not."""
    folder.mkdir(parents=True, exist_ok=True)
    identity = {"name": "tester", "credentials": [{"accessKey": KEY_ID, "secretKey": SECRET}], "actions": ["Admin"]}
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    ports = dict(zip(ROLES, _free_ports(len(ROLES)), strict=True))
    command = [
        str(Path(sys.executable).with_name("weed")),
        "mini",
        f"-dir={folder}",
        f"-s3.config={folder}/s3.json",
        f"-bucket={BUCKET}",
        *("-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-admin.ui=false", "-webdav=false", "-master.telemetry=false"),
        *("-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.autoCreateBucket=false"),
        *(f"-{role}.port={port}" for role, port in ports.items()),
        *(f"-{role}.port.grpc={port + 10_000}" for role, port in ports.items()),
    ]
    log = folder / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, cwd=folder)
    try:
        endpoint = f"http://127.0.0.1:{ports['s3']}"
        _wait_for_bucket(endpoint, process, log)
        yield S3(endpoint)
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for_bucket(endpoint: str, process: subprocess.Popen[bytes], log: Path) -> None:
    store = S3Store(
        BUCKET,
        endpoint=endpoint,
        access_key_id=KEY_ID,
        secret_access_key=SECRET,
        region="us-east-1",
        client_options={"allow_http": True},
        retry_config={"max_retries": 0},
    )
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        try:
            obstore.put(store, "ready", b"")
            obstore.delete(store, "ready")
            return
        except (BaseError, FileNotFoundError):
            time.sleep(0.1)
    raise RuntimeError(f"SeaweedFS did not start: {log.read_text()[-2000:]}")


def _free_ports(count: int) -> list[int]:
    """Ports of which each and the one 10,000 above are free; below 22,768, so that both stay under the ephemeral range."""
    found = []
    for port in range(12_000 + time.time_ns() // 1000 % 10_000, 22_700):
        if len(found) < count and _is_free(port) and _is_free(port + 10_000):
            found.append(port)
    if len(found) < count:
        return _free_ports(count)
    return found


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
