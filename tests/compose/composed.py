"""docker-compose.yml, really brought up: under a name, on ports, with secrets and volumes of its own."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reflux.artifacts import Artifacts, run_folder
from reflux.client import Client
from reflux.local import servers
from tests.environment import ROOT

COMPOSE = str(Path(sys.executable).with_name("docker-compose"))
PROJECT = "reflux-compose-test"
STUDENT = "/srv/student"
VERSION = "org.opencontainers.image.version"
PROFILES = ("--profile", "cpu", "--profile", "demo")


def engine() -> str:
    """The Docker engine's version; empty where none answers."""
    try:
        asked = subprocess.run(
            ["docker", "version", "--format", "{{.Server.Version}}"], capture_output=True, text=True, timeout=30, check=False
        )
    except FileNotFoundError:
        return ""
    return asked.stdout.strip() if asked.returncode == 0 else ""


@dataclass
class Composed:
    folder: Path
    student: Path

    def __post_init__(self) -> None:
        subprocess.run([str(ROOT / "deploy" / "make-secrets"), str(self.folder / "secrets")], check=True)
        self.port = servers.free_port()
        self.label("1")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def key(self) -> str:
        return (self.folder / "secrets" / "reflux_operator_key").read_text().strip()

    def label(self, version: str) -> None:
        """Write the override: images built from now on say this version."""
        plain = subprocess.run(
            [COMPOSE, *self._files()[:2], *PROFILES, "config", "--format", "json"], capture_output=True, check=True
        )
        config = json.loads(plain.stdout)
        # By the host's network, as an engine without NAT has no other way out.
        build = {"network": "host", "labels": {VERSION: version}}
        services: dict[str, dict[str, Any]] = {
            name: {"build": build} for name, service in config["services"].items() if "build" in service
        }
        services["gpu-trainer-cpu"]["volumes"] = [f"{self.student}:{STUDENT}:ro"]
        secrets = {name: {"file": str(self.folder / "secrets" / name)} for name in config["secrets"]}
        (self.folder / "override.json").write_text(json.dumps({"services": services, "secrets": secrets}))

    def __call__(self, *arguments: str, check: bool = True) -> str:
        """What a command of Compose prints."""
        env = os.environ | {"REFLUX_PORT": str(self.port), "REFLUX_SOURCES": str(ROOT / "examples")}
        command = [COMPOSE, "--project-name", PROJECT, "--progress", "plain", *self._files(), *PROFILES, *arguments]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        assert not check or done.returncode == 0, f"{' '.join(arguments)}: {done.stdout[-2000:]}{done.stderr[-4000:]}"
        return done.stdout

    def _files(self) -> list[str]:
        return ["--file", str(ROOT / "docker-compose.yml"), "--file", str(self.folder / "override.json")]

    def up(self, *options: str) -> None:
        self("up", "--detach", "--wait", "--wait-timeout", "300", "--scale", "teacher-worker=3", *options)

    def containers(self) -> list[dict[str, Any]]:
        """As `docker inspect` tells of them."""
        ids = self("ps", "--all", "--quiet").split()
        asked = subprocess.run(["docker", "inspect", *ids], capture_output=True, check=True)
        found: list[dict[str, Any]] = json.loads(asked.stdout)
        return found

    def artifacts(self, client: Client, run_id: str, folder: Path) -> Artifacts:
        """The run's JSONL files, downloaded from the API."""
        after, more = None, True
        while more:
            page = client.artifacts(run_id, after)
            for artifact in page.data:
                if artifact.path.endswith(".jsonl"):
                    to = folder / run_folder(run_id) / artifact.path
                    to.parent.mkdir(parents=True, exist_ok=True)
                    client.download(run_id, artifact.path, to)
            after, more = page.data[-1].path if page.data else None, page.has_more
        return Artifacts(f"file://{folder}")


def left() -> list[str]:
    """Containers, volumes and networks of the project that are still there."""
    of = f"label=com.docker.compose.project={PROJECT}"
    asks = (["ps", "--all"], ["volume", "ls"], ["network", "ls"])
    found = [
        subprocess.run(["docker", *ask, "--quiet", "--filter", of], capture_output=True, text=True, check=True) for ask in asks
    ]
    return [line for each in found for line in each.stdout.split()]
