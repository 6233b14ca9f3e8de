"""docker-compose.yml, really brought up: under a name, on ports, with secrets and volumes of its own."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
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
    builds: dict[str, dict[str, Any]] = field(default_factory=dict, init=False)  # by image, as Compose has it
    scratch: set[str] = field(default_factory=set, init=False)  # volumes without a name: Compose forgets them

    def __post_init__(self) -> None:
        subprocess.run([str(ROOT / "deploy" / "make-secrets"), str(self.folder / "secrets")], check=True)
        for file in self.student.iterdir():
            file.chmod(0o644)  # as another user reads it in the container
        self.port = servers.free_port()
        (self.folder / "override.json").write_text(json.dumps(self._override()))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def key(self) -> str:
        return (self.folder / "secrets" / "reflux_operator_key").read_text().strip()

    def build(self, version: str, tree: Path = ROOT) -> None:
        """All images of our own, of a tree's code, labelled with a version."""
        for image, build in self.builds.items():
            command = ["docker", "build", "--quiet", "--network=host", f"--file={ROOT / 'Dockerfile'}"]
            command += [f"--target={build['target']}", f"--tag={image}:{version}"]
            command += [f"--label={VERSION}={version}", *(f"--build-arg={name}={value}" for name, value in build["args"].items())]
            subprocess.run([*command, str(tree)], env=os.environ | {"DOCKER_BUILDKIT": "1"}, check=True)

    def take(self, version: str) -> None:
        """Containers that are made from here on are of this version."""
        for image in self.builds:
            subprocess.run(["docker", "tag", f"{image}:{version}", image], check=True)

    def _override(self) -> dict[str, Any]:
        """Secrets, names of images and a student of our own; notes how the images are built."""
        command = [COMPOSE, "--file", str(ROOT / "docker-compose.yml"), *PROFILES, "config", "--format", "json"]
        config = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
        services: dict[str, dict[str, Any]] = {}
        for name, service in config["services"].items():
            if "build" in service:
                image = f"{PROJECT}-{service['build']['target']}"
                self.builds[image] = service["build"]
                services[name] = {"image": image}
        services["gpu-trainer-cpu"]["volumes"] = [f"{self.student}:{STUDENT}:ro"]
        secrets = {name: {"file": str(self.folder / "secrets" / name)} for name in config["secrets"]}
        return {"services": services, "secrets": secrets}

    def __call__(self, *arguments: str, check: bool = True) -> str:
        """What a command of Compose prints."""
        env = os.environ | {"REFLUX_PORT": str(self.port), "REFLUX_SOURCES": str(ROOT / "examples")}
        files = ("--file", str(ROOT / "docker-compose.yml"), "--file", str(self.folder / "override.json"))
        command = [COMPOSE, "--project-name", PROJECT, "--progress", "plain", *files, *PROFILES, *arguments]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        assert not check or done.returncode == 0, f"{' '.join(arguments)}: {done.stdout[-2000:]}{done.stderr[-4000:]}"
        return done.stdout

    def up(self) -> None:
        self("up", "--detach", "--no-build", "--wait", "--wait-timeout", "300", "--scale", "teacher-worker=3")
        mounts = (mount for container in self.containers() for mount in container["Mounts"] if mount["Type"] == "volume")
        self.scratch |= {mount["Name"] for mount in mounts if not mount["Name"].startswith(PROJECT)}

    def remove(self) -> None:
        self("down", "--volumes", "--timeout", "20")
        if self.scratch:
            subprocess.run(["docker", "volume", "rm", "--force", *self.scratch], stdout=subprocess.DEVNULL, check=True)

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


def checked_out(commit: str, folder: Path) -> Path:
    """The repository as it was."""
    folder.mkdir()
    tree = subprocess.run(["git", "archive", commit], cwd=ROOT, capture_output=True, check=True).stdout
    subprocess.run(["tar", "--extract", f"--directory={folder}"], input=tree, check=True)
    return folder


def left() -> list[str]:
    """Containers, volumes and networks of the project that are still there."""
    of = f"label=com.docker.compose.project={PROJECT}"
    asks = (["ps", "--all"], ["volume", "ls"], ["network", "ls"])
    found = [
        subprocess.run(["docker", *ask, "--quiet", "--filter", of], capture_output=True, text=True, check=True) for ask in asks
    ]
    return [line for each in found for line in each.stdout.split()]
