"""Each secret of a running stack is changed as docs/operations.md says, and work goes on with the new one alone."""

import base64
import hashlib
import hmac
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from reflux.client import ApiError, Client
from reflux.local.stack import Stack
from reflux.views import Role
from tests.integration.by_hand import SPEC, eventually
from tests.integration.test_api_webhooks import Receiver

pytestmark = pytest.mark.long
WORKER = "teacher_worker-1"


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver
        receiver.shutdown()


@pytest.fixture(scope="module")
def turning(ground: Path, receiver: Receiver) -> Iterator[Stack]:
    env = {"REFLUX_WEBHOOK_URL": f"http://127.0.0.1:{receiver.server_port}/hook", "REFLUX_WEBHOOK_SECRET": "the old one"}
    with Stack(ground / "turning", workers={"teacher_worker": 1}, durable=False, env=env) as stack:
        yield stack


@pytest.fixture
def operator(turning: Stack) -> Iterator[Client]:
    with Client(turning.api_url, turning.keys["operator"], tries=9) as client:
        yield client


def recreated(stack: Stack, *names: str, **env: str) -> None:
    """Each process with its new environment, as a container is."""
    for name in names:
        stack.stop(name)
        stack.processes[name].env.update(env)
        stack.start(name)


def id_of(client: Client, role: Role, *others: str) -> str:
    """The key of a role that is valid, besides `others`."""
    [key] = [key.id for key in client.all_keys() if key.role == role and not key.revoked_at and key.id not in others]
    return key


def works(client: Client) -> str:
    """A run that a real worker refuses in preflight: rung for, claimed and reported by what is valid now. Its id."""
    run = client.wait(client.create(SPEC).id, 60)
    assert run.error is not None
    assert run.error.code == "preflight_failed", run.error
    return run.id


def test_an_operator_s_key(turning: Stack, operator: Client) -> None:
    old = id_of(operator, "operator")
    new = operator.create_key("operator", "after the change").key
    with Client(turning.api_url, new) as changed:
        changed.revoke_key(old)
        recreated(turning, "api")  # it still has the old one in its environment
        with pytest.raises(ApiError) as refused:
            eventually(lambda: operator.runs(limit=1) is None, 10, "the old key still opens")
        assert refused.value.problem.status == 401
        works(changed)
    turning.keys["operator"] = new


def test_the_workers_key(turning: Stack, operator: Client) -> None:
    old = id_of(operator, "worker")
    new = operator.create_key("worker", "after the change")
    turning.stop(WORKER)
    waits = operator.create(SPEC)
    recreated(turning, WORKER, REFLUX_WORKER_KEY=new.key)
    operator.revoke_key(old)
    run = operator.wait(waits.id, 60)
    assert run.error is not None
    assert run.error.code == "preflight_failed"
    works(operator)


def test_the_broker_s_password(turning: Stack, operator: Client) -> None:
    turning.stop("valkey")
    turning.processes["valkey"].command += ["--requirepass", "a-new-password"]
    turning.start("valkey")
    url = f"redis://:a-new-password@127.0.0.1:{turning.ports['valkey']}/0"
    recreated(turning, "api", "control", WORKER, REFLUX_BROKER_URL=url)
    works(operator)
    assert operator.ready().status == "ok"


def test_the_webhook_s_secret(turning: Stack, operator: Client, receiver: Receiver) -> None:
    recreated(turning, "control", REFLUX_WEBHOOK_SECRET="the new one")
    run_id = works(operator)
    eventually(lambda: receiver.of(run_id) and receiver.of(run_id)[-1]["data"]["status"] == "failed", 30, "nothing was told")
    headers, content = receiver.taken[-1]
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + content
    expected = base64.b64encode(hmac.digest(b"the new one", signed, hashlib.sha256)).decode()
    assert headers["webhook-signature"] == f"v1,{expected}"


def test_a_secret_s_file_is_made_anew(tmp_path: Path) -> None:
    """What the page says of Compose: delete a file and those made from it, and run the script."""
    script = Path(__file__).parents[2] / "deploy" / "make-secrets"
    subprocess.run([script, tmp_path], check=True)
    before = {path.name: path.read_text() for path in tmp_path.iterdir()}
    for name in ("valkey.conf", "reflux_broker_url"):
        (tmp_path / name).unlink()
    subprocess.run([script, tmp_path], check=True)
    after = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert {name for name in after if after[name] != before[name]} == {"valkey.conf", "reflux_broker_url"}
    assert after["valkey.conf"].split()[1] in after["reflux_broker_url"]
