"""docker-compose.yml, as Compose itself understands it: the same processes as the embedded stack's, and shut in."""

import json
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from obstore.exceptions import UnknownConfigurationKeyError
from obstore.store import S3Store

from reflux.artifacts import Artifacts
from reflux.errors import Terminal
from reflux.local import servers
from reflux.local.stack import Stack
from services.api.settings import Settings
from tests.environment import ROOT, variables_read
from tests.integration.by_hand import eventually

COMPOSE = [str(Path(sys.executable).with_name("docker-compose")), "--file", str(ROOT / "docker-compose.yml"), "--profile", "*"]
PROMETHEUS = ROOT / "deploy" / "prometheus" / "prometheus.yml"
WATCHERS = ("prometheus", "grafana", "jaeger")
OURS = ("reflux-cpu", "reflux-evaluator", "reflux-gpu")
# The service of docker-compose.yml for each process of the embedded stack.
SAME = {
    "teacher": ["recorded-teacher"],
    "api": ["api"],
    "control": ["control"],
    "teacher_worker-1": ["teacher-worker"],
    "evaluator-1": ["evaluator"],
    "gpu_trainer-1": ["gpu-trainer", "gpu-trainer-cpu"],
}
WORKERS = ("teacher-worker", "evaluator", "gpu-trainer", "gpu-trainer-cpu")
WHERE = ("--host", "--port", "--answers")  # options that say where, not what
LIBRARIES = {"AWS_SHARED_CREDENTIALS_FILE": "botocore", "HF_HOME": "huggingface_hub"}


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    made = subprocess.run([*COMPOSE, "config", "--format", "json"], capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    assert made.stderr == "", "Compose warns"
    config: dict[str, Any] = json.loads(made.stdout)
    return config


@pytest.fixture(scope="module")
def services(compose: dict[str, Any]) -> dict[str, dict[str, Any]]:
    services: dict[str, dict[str, Any]] = compose["services"]
    return services


def ours(services: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {name: service for name, service in services.items() if service["image"] in OURS}


def test_every_process_of_the_stack_is_there_with_the_same_command(services: dict[str, dict[str, Any]]) -> None:
    stack = Stack(Path("/nowhere"), teacher_answers=(Path("answers.jsonl"),), ports={"api": 1, "teacher": 2})
    commands = stack.commands()
    assert set(commands) == set(SAME)
    assert {name for names in SAME.values() for name in names} == set(ours(services))
    for process, names in SAME.items():
        for name in names:
            assert what(services[name]["command"]) == what(commands[process]), name


def what(command: list[str]) -> list[str]:
    """A command without where it listens, and with one name for the interpreter."""
    command = ["python", *command[1:]] if command[0] == sys.executable else command
    return [part for part, before in zip(command, [None, *command], strict=False) if part not in WHERE and before not in WHERE]


def test_every_variable_that_a_service_gets_is_read(services: dict[str, dict[str, Any]]) -> None:
    settings = {f"REFLUX_{name.upper()}" for name in Settings.model_fields}
    read = variables_read()
    assert {"REFLUX_WORKER_KEY_FILE", "REFLUX_TEACHER_URL", "REFLUX_MODEL_CACHE"} <= read, "the search for them is broken"
    for service, name in ((s, n) for s in ours(services) for n in services[s].get("environment") or {}):
        known = settings if name.startswith("REFLUX_") and service in ("api", "control") else read
        assert name in known or name in LIBRARIES or known_to_obstore(name), f"{service} gets {name}, which nobody reads"


def known_to_obstore(name: str) -> bool:
    try:
        S3Store("bucket", config={name: "1"})
    except UnknownConfigurationKeyError:
        return False
    return True


def test_each_secret_is_a_file_that_somebody_reads(compose: dict[str, Any], services: dict[str, dict[str, Any]]) -> None:
    settings = {f"reflux_{name}" for name in Settings.model_fields}
    for name, service in services.items():
        mounted = {secret["source"] for secret in service.get("secrets") or ()}
        said = json.dumps([service.get("command"), service.get("environment"), service["healthcheck"]])
        said += PROMETHEUS.read_text() if name == "prometheus" else ""
        for secret in mounted:
            read = name in ("api", "control") and secret in settings
            assert read or f"/run/secrets/{secret}" in said, f"{name} does not use {secret}"
        for path in re.findall(r"/run/secrets/([\w.]+)", said):
            assert path in mounted, f"{name} has no {path}"
    assert all(secret["file"].startswith(str(ROOT / "secrets")) for secret in compose["secrets"].values())


def test_no_secret_stands_in_an_environment(services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        for variable, value in (service.get("environment") or {}).items():
            if re.search("KEY|SECRET|PASSWORD|TOKEN|CREDENTIALS|DATABASE_URL|BROKER_URL", variable):
                assert variable.endswith("_FILE"), f"{name}: {variable}"
                assert value.startswith("/run/secrets/"), f"{name}: {variable}"
            assert "@" not in value, f"{name}: {variable}"


def test_the_secrets_can_be_made_and_stay(tmp_path: Path, compose: dict[str, Any]) -> None:
    folder = tmp_path / "secrets"
    made = [_make_secrets(folder) for _ in range(2)]
    assert made[0] == made[1], "a second call changed a secret"
    assert {f"{ROOT}/secrets/{name}" for name in made[0]} >= {secret["file"] for secret in compose["secrets"].values()}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {0o644}
    settings = Settings(_secrets_dir=folder)
    assert settings.worker_key is not None
    assert settings.worker_key.get_secret_value() == made[0]["reflux_worker_key"]
    assert f":{made[0]['postgres_password']}@postgres:5432/" in settings.database_url.get_secret_value()
    assert made[0]["valkey.conf"] == f"requirepass {made[0]['reflux_broker_url'].split('@')[0].removeprefix('redis://:')}"
    [identity] = json.loads(made[0]["s3_identities.json"])["identities"]
    keys = {"accessKey": made[0]["s3_access_key_id"], "secretKey": made[0]["s3_secret_access_key"]}
    assert identity["credentials"] == [keys]
    values = [value for name, value in made[0].items() if name != "aws_credentials"]
    assert len(set(values)) == len(values)


def _make_secrets(folder: Path) -> dict[str, str]:
    subprocess.run([str(ROOT / "deploy" / "make-secrets"), str(folder)], check=True)
    return {file.name: file.read_text().strip() for file in folder.iterdir()}


def test_only_the_writers_reach_postgres(services: dict[str, dict[str, Any]]) -> None:
    beside = {name for name, service in services.items() if set(service["networks"]) & set(services["postgres"]["networks"])}
    assert beside == {"postgres", "api", "control"}
    assert {name for name, s in services.items() if "reflux_database_url" in str(s.get("secrets"))} == {"api", "control"}


def test_untrusted_code_has_no_way_out(compose: dict[str, Any], services: dict[str, dict[str, Any]]) -> None:
    assert [network for network in services["evaluator"]["networks"] if not compose["networks"][network].get("internal")] == []


def test_only_what_people_look_at_is_published_and_only_here(services: dict[str, dict[str, Any]]) -> None:
    published = {name: service["ports"] for name, service in services.items() if service.get("ports")}
    assert set(published) == {"api", "grafana"}
    assert {port["host_ip"] for ports in published.values() for port in ports} == {"127.0.0.1"}


def test_every_container_is_shut_in(services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        assert service["user"].split(":")[0] not in ("", "0", "root"), name
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert "no-new-privileges:true" in service["security_opt"], name
        assert not {"privileged", "cap_add", "pid", "ipc", "network_mode", "devices"} & {k for k, v in service.items() if v}, name
        writable = {volume["target"] for volume in service.get("volumes") or () if not volume.get("read_only")}
        assert "/tmp" in writable | {mount.split(":")[0] for mount in service.get("tmpfs") or ()} or name == "valkey", name


def test_every_container_is_watched_and_waited_for(services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        assert service["healthcheck"]["test"], name
        assert service["restart"] == "unless-stopped", name
        for other, condition in (service.get("depends_on") or {}).items():
            assert condition["condition"] == "service_healthy", f"{name} does not wait for {other}"
    for name in WORKERS:
        assert set(services[name]["depends_on"]) == {"api", "valkey", "seaweedfs"}, name
        assert seconds(services[name]["stop_grace_period"]) >= 45, f"{name} can't give its work back in time"


def seconds(duration: str) -> int:
    """Compose's `1m0s`."""
    units = {"h": 3600, "m": 60, "s": 1}
    return sum(int(number) * units[unit] for number, unit in re.findall(r"(\d+)([hms])", duration))


def test_workers_can_be_scaled(services: dict[str, dict[str, Any]]) -> None:
    """Several containers of a service need names, ports and a worker's name of their own."""
    for name in WORKERS:
        service = services[name]
        assert not {"container_name", "hostname", "ports"} & {k for k, v in service.items() if v}, name
        assert "REFLUX_WORKER_NAME" not in service["environment"], name
        scratch = [volume for volume in service.get("volumes") or () if volume["target"] == "/tmp"]
        assert all("source" not in volume for volume in scratch), f"{name}: its containers share /tmp"


def test_a_gpu_is_asked_for_where_there_is_one(services: dict[str, dict[str, Any]]) -> None:
    """The two trainers differ in their profile and the device, and in nothing else."""
    gpu, cpu = dict(services["gpu-trainer"]), dict(services["gpu-trainer-cpu"])
    [device] = gpu.pop("deploy")["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]
    assert (gpu.pop("profiles"), cpu.pop("profiles")) == (["gpu"], ["cpu"])
    assert gpu == cpu
    assert all(
        "profiles" not in service
        for name, service in services.items()
        if name not in {*SAME["gpu_trainer-1"], *SAME["teacher"], *WATCHERS}
    )


def test_the_images_have_the_targets_that_are_asked_for(services: dict[str, dict[str, Any]]) -> None:
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    targets = dict(re.findall(r"^FROM \S+ AS (\S+)\n(.*?)(?=^FROM |\Z)", dockerfile, re.M | re.S))
    for name, service in ours(services).items():
        target = service["build"]["target"]
        assert service["image"] == f"reflux-{target}", name
        assert targets[target].rstrip().endswith("USER reflux"), f"target {target} runs as root"
        for variable in service["build"].get("args") or {}:
            assert f"ARG {variable}" in dockerfile, f"{name}: the Dockerfile has no {variable}"


@pytest.fixture
def seaweedfs(tmp_path: Path, services: dict[str, dict[str, Any]]) -> Iterator[tuple[str, Path]]:
    """The object store, run with the command of docker-compose.yml on ports of its own: its S3 address, and the secrets."""
    secrets = tmp_path / "secrets"
    _make_secrets(secrets)
    names = [f"{part}.port{kind}" for part in ("s3", "master", "volume", "filer") for kind in ("", ".grpc")]
    ports: set[int] = set()
    while len(ports) < len(names):
        ports.add(servers.free_port())
    own: dict[str, object] = {"dir": tmp_path / "data", "ip": "127.0.0.1", "ip.bind": "127.0.0.1"}
    own |= {"s3.config": secrets / "s3_identities.json", **dict(zip(names, ports, strict=True))}
    (tmp_path / "data").mkdir()
    given = [part for part in services["seaweedfs"]["command"] if part.lstrip("-").split("=")[0] not in own]
    command = [str(Path(sys.executable).with_name("weed")), *given, *(f"-{name}={value}" for name, value in own.items())]
    with (tmp_path / "log").open("wb") as log:
        running = subprocess.Popen(command, stdout=log, stderr=log, cwd=tmp_path)
    healthy = [f"http://127.0.0.1:{own['s3.port']}/healthz", f"http://127.0.0.1:{own['filer.port']}/buckets/reflux/"]
    eventually(lambda: all(map(answers, healthy)), 60, f"SeaweedFS did not start; see {tmp_path}/log")
    yield f"127.0.0.1:{own['s3.port']}", secrets
    running.terminate()
    running.wait(30)


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def test_the_artifacts_are_kept_in_the_store_that_compose_starts(
    seaweedfs: tuple[str, Path], services: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, secrets = seaweedfs
    environment = {name: value for name, value in services["evaluator"]["environment"].items() if name.startswith("AWS_")}
    for name, value in environment.items():
        monkeypatch.setenv(name, value.replace("/run/secrets", str(secrets)).replace("seaweedfs:8333", address))
    url = services["evaluator"]["environment"]["REFLUX_ARTIFACTS_URL"]
    store = Artifacts(url)
    assert store.create("runs/a/answer.json", b"first")
    assert not store.create("runs/a/answer.json", b"second")
    assert store.get("runs/a/answer.json") == b"first"
    assert store.paths("runs") == ["runs/a/answer.json"]
    (secrets / "s3_secret_access_key").write_text("another")
    with pytest.raises(Terminal, match="No right"):
        Artifacts(url).get("runs/a/answer.json")
