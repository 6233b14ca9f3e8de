"""A stack whose GPU work is done on machines of a stand-in provider: the worker "on the instance" is a real process of this one.

It knows what its user data tells it and nothing else: no broker, and a key that is good for its run alone.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import yaml

from reflux.local.stack import Stack
from tests.cloud import IMAGE, KEYS, REGION, Cloud, cloud
from tests.environment import ROOT
from tests.metadata import Metadata, metadata

COMPUTE = {"kind": "ec2", "region": REGION, "instance_type": "g4dn.2xlarge", "start_seconds": 300}


@dataclass
class Machines:
    """`stack` has no gpu_trainer of its own. `metadata` of each instance by its worker's name."""

    stack: Stack
    provider: Cloud
    services: ExitStack
    metadata: dict[str, Metadata] = field(default_factory=dict)

    def boot(self, user_data: str) -> "subprocess.Popen[bytes]":
        """What the instance would do: the worker, with the variables of its user data."""
        told = variables(user_data)
        service = self.metadata[told["REFLUX_WORKER_NAME"]] = self.services.enter_context(metadata())
        bare = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        there = {"PYTHONPATH": str(ROOT), "AWS_EC2_METADATA_SERVICE_ENDPOINT": service.url}
        worker = [sys.executable, "-m", "services.gpu_trainer"]
        with (self.stack.folder / "logs" / f"{told['REFLUX_WORKER_NAME']}.log").open("ab") as log:
            return subprocess.Popen(worker, env=bare | there | told, stdout=log, stderr=log)

    def sql(self, statement: str) -> list[tuple[Any, ...]]:
        url = f"postgresql://postgres@127.0.0.1:{self.stack.ports['postgres']}/reflux"
        with psycopg.connect(url, autocommit=True) as connection:
            done = connection.execute(statement)
            return done.fetchall() if done.description else []

    def hurry(self) -> None:
        """The next machine is made without its wait."""
        self.sql("update tasks set due_at = now(), ring_at = now() where kind = 'provision' and status = 'ready'")

    def instances(self, run_id: str) -> dict[str, str]:
        """The states of a run's instances."""
        filters = [{"Name": "tag:reflux:run", "Values": [run_id]}]
        found = self.provider.ec2().describe_instances(Filters=filters)["Reservations"]
        return {i["InstanceId"]: i["State"]["Name"] for reservation in found for i in reservation["Instances"]}

    def living(self, run_id: str) -> list[str]:
        return [name for name, state in self.instances(run_id).items() if state != "terminated"]


def variables(user_data: str) -> dict[str, str]:
    lines = re.search(r"<<'REFLUX_END'\n(.*?)\nREFLUX_END", user_data, re.DOTALL)
    assert lines
    return dict(line.split("=", 1) for line in lines[1].splitlines())


@contextmanager
def machines(folder: Path, workers: dict[str, int], *teacher_answers: Path) -> Iterator[Machines]:
    folder.mkdir()
    with ExitStack() as open_:
        provider = open_.enter_context(cloud())
        env = {
            "REFLUX_MACHINES": str(folder / "machines.yaml"),
            "AWS_ENDPOINT_URL_EC2": provider.url,
            "AWS_ACCESS_KEY_ID": KEYS["aws_access_key_id"],
            "AWS_SECRET_ACCESS_KEY": KEYS["aws_secret_access_key"],
            "REFLUX_BEAT": "PT0.5S",
            "REFLUX_LEASE": "PT6S",
            "REFLUX_SWEEP_SECONDS": "1",
        }
        stack = open_.enter_context(Stack(folder / "stack", teacher_answers, workers=workers, durable=False, env=env))
        place = {"api_url": stack.api_url, "worker_image": "registry/reflux-gpu:1", "ec2": {"image": IMAGE}}
        (folder / "machines.yaml").write_text(yaml.safe_dump(place))
        there = Machines(stack, provider, open_.enter_context(ExitStack()))
        provider.boots = there.boot
        yield there
