"""The control plane alone, really running: PostgreSQL, Valkey, API and control, with a lease of two seconds; the tiny student."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from reflux.client import Client
from reflux.local.stack import Stack
from reflux.machines import Machine
from reflux.worker import Api
from services.teacher_worker.cloud import sagemaker
from tests.cloud import KEYS, Cloud, cloud
from tests.integration import on_record
from tests.integration.by_hand import HandWorker
from tests.integration.desk import Desk, database
from tests.integration.sagemaker_jobs import SLEEPS
from tests.s3 import S3, s3_server
from tests.sagemaker_service import REGION, Service, sagemaker_service
from tests.teacher_tasks import COUNT, StandIn, answer_text, prompt_text, stand_in, write_jsonl

TIMES = {"REFLUX_LEASE": "PT2S", "REFLUX_GRACE": "PT2S", "REFLUX_BEAT": "PT0.5S", "REFLUX_RING_AGAIN": "PT1S"}

numbers = itertools.count(1)


@pytest.fixture(scope="session")
def tiny(student: Path) -> Path:
    return student


@pytest.fixture(scope="session")
def control_plane(ground: Path) -> Iterator[Stack]:
    with Stack(ground / "control-plane", workers={}, durable=False, env=TIMES | {"REFLUX_MAX_ACTIVE_RUNS": "100"}) as stack:
        yield stack


@pytest.fixture(scope="session")
def desk(control_plane: Stack) -> Iterator[Desk]:
    """The API's transactions without its processes, on a database of their own."""
    with database(control_plane.ports["postgres"], "desk") as engine:
        yield Desk(engine)


@pytest.fixture
def client(control_plane: Stack) -> Iterator[Client]:
    with Client(control_plane.api_url, control_plane.keys["operator"]) as client:
        yield client


@pytest.fixture
def worker(control_plane: Stack) -> Iterator[HandWorker]:
    api = Api(control_plane.api_url, control_plane.keys["worker"])
    with api.http:
        yield HandWorker(api, control_plane)


@pytest.fixture(scope="session")
def answers_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("answers") / "teacher.jsonl"
    answers = [
        {"prompt_id": f"p{i:03d}", "prompt": prompt_text(i), "answers": [answer_text(i, 0), answer_text(i, 1)]}
        for i in range(COUNT)
    ]
    write_jsonl(path, answers)
    return path


@pytest.fixture(scope="module")
def running(answers_file: Path) -> Iterator[StandIn]:
    with stand_in(answers_file) as found:
        yield found


@pytest.fixture
def teacher(running: StandIn) -> StandIn:
    """The module's recorded teacher, well behaved again."""
    running.behave()
    running.forget()
    return running


@pytest.fixture
def jobs_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REFLUX_JOBS", "1")


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the folders of jobs are made, so that a test sees what is left."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


@pytest.fixture(scope="module")
def provider() -> Iterator[Cloud]:
    """EC2, at this module's disposal."""
    with cloud() as there:
        yield there


@pytest.fixture
def aws(provider: Cloud, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The environment in which EC2 is `provider`."""
    env = {"AWS_ENDPOINT_URL_EC2": provider.url, "AWS_ACCESS_KEY_ID": KEYS["aws_access_key_id"]}
    env["AWS_SECRET_ACCESS_KEY"] = KEYS["aws_secret_access_key"]
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    provider.refusals.clear()
    return env


@pytest.fixture
def api(control_plane: Stack) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {control_plane.keys['worker']}"}
    with httpx.Client(base_url=control_plane.api_url, headers=headers, timeout=15) as client:
        yield client


@pytest.fixture
def nothing_left(control_plane: Stack) -> Iterator[None]:
    """No other test sees this one's machines."""
    yield
    on_record.database(control_plane, "delete from resources")


@pytest.fixture(scope="session")
def sagemaker_on_s3(ground: Path) -> Iterator[tuple[Service, S3]]:
    with s3_server(ground / "sagemaker-s3") as s3, sagemaker_service(ground / "sagemaker") as service:
        yield service, s3


@pytest.fixture
def job_service(sagemaker_on_s3: tuple[Service, S3], monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    """SageMaker, with nothing against anybody and no job that lives."""
    service, s3 = sagemaker_on_s3
    for name, value in (s3.environment | {"AWS_ENDPOINT_URL_SAGEMAKER": service.url}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sagemaker, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(sagemaker, "FINISH_SECONDS", 1.0)
    service.command = SLEEPS
    yield service
    service.behave()
    service.stop_all()


@pytest.fixture
def machine() -> Machine:
    """To be made as a SageMaker job."""
    number = next(numbers)
    return Machine(token=f"reflux-r{number}-1", run_id=f"r{number}", kind="sagemaker_job", region=REGION, deployment="d1")
