"""Artifacts that lie on an S3: streamed through the API, or fetched by a signed address."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from reflux.artifacts import Artifacts
from reflux.client import Client
from reflux.local.stack import Stack
from tests.integration.by_hand import SPEC
from tests.s3 import BUCKET, S3, s3_server

CONTENT = bytes(range(256)) * 10_000


@pytest.fixture(scope="module")
def bucket(ground: Path) -> Iterator[S3]:
    with s3_server(ground / "api-s3") as server:
        yield server


@pytest.fixture(scope="module", params=["False", "True"], ids=["streamed", "signed"])
def stack(request: pytest.FixtureRequest, ground: Path, bucket: S3) -> Iterator[Stack]:
    env = bucket.environment | {"REFLUX_ARTIFACTS_URL": f"s3://{BUCKET}", "REFLUX_SIGN_ARTIFACTS": request.param}
    with Stack(ground / f"api-on-s3-{request.param}", workers={}, durable=False, env=env) as stack:
        yield stack


def test_artifacts_on_s3(stack: Stack, bucket: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in bucket.environment.items():
        monkeypatch.setenv(name, value)
    store = Artifacts(f"s3://{BUCKET}")
    with Client(stack.api_url, stack.keys["operator"]) as client:
        run = client.create(SPEC)
        store.put(f"runs/{run.id}/model/adapter.bin", CONTENT)
        assert client.artifacts(run.id).data[0].model_dump() == {"path": "model/adapter.bin", "size": len(CONTENT)}
        assert client.download(run.id, "model/adapter.bin", tmp_path / "got").read_bytes() == CONTENT
        answer = client.http.get(f"/v1/runs/{run.id}/artifacts/model/adapter.bin", headers={"Range": "bytes=10-19"})
        if stack.env["REFLUX_SIGN_ARTIFACTS"] == "True":
            assert answer.status_code == 307
            answer = httpx.get(answer.headers["location"], headers={"Range": "bytes=10-19"})
        assert (answer.status_code, answer.content) == (206, CONTENT[10:20])
        assert client.http.get(f"/v1/runs/{run.id}/artifacts/model/none").status_code == 404
        file = tmp_path / "rows.csv"
        file.write_text("prompt,completion\nWrite x.,int x;\n")
        uri = client.upload(file).uri
        assert store.exists(uri.removeprefix(f"s3://{BUCKET}/"))
        assert client.http.get("/readyz").json()["artifacts"] == "ok"
