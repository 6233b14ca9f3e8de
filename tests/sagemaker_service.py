"""SageMaker's training jobs for tests: a server that speaks its wire protocol (JSON 1.1), and lives through every state of a job.

    Pending ─► Starting ─► Downloading ─► Training ─► Uploading ─► Completed | Failed | Stopped

A job's container is a real process of this machine: the entry point of its request, with the environment of its request, on a
folder of its own in place of /opt/ml. Channels come from the object store and models go there, by the AWS_* variables at hand.
"""

import json
import os
import shlex
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3

from reflux.artifacts import Artifacts
from tests.cloud import KEYS, Refusal
from tests.environment import ROOT

REGION, ACCOUNT = "eu-central-1", "123456789012"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/reflux-job"
OVER = ("Completed", "Failed", "Stopped")


@dataclass
class Job:
    request: dict[str, Any]
    folder: Path  # in place of /opt/ml
    made_at: float = field(default_factory=time.time)
    status: str = "InProgress"
    secondary: str = "Pending"
    reason: str | None = None
    transitions: list[dict[str, Any]] = field(default_factory=list)
    process: "subprocess.Popen[bytes] | None" = None
    asked_to: str | None = None  # stop, or start again: "stop", "interrupt"
    longest: float | None = None  # seconds in Training; else what its request says
    model: str = ""
    billable: int = 0

    @property
    def name(self) -> str:
        return str(self.request["TrainingJobName"])

    @property
    def arn(self) -> str:
        return f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:training-job/{self.name}"

    @property
    def environment(self) -> dict[str, str]:
        return dict(self.request.get("Environment", {}))


@dataclass
class Service:
    """`steps`: seconds that a state lasts at least. `fails`: the FailureReason of jobs that come to a state, so many times."""

    folder: Path
    url: str = ""
    steps: float = 0.03
    grace: float = 5.0  # from SIGTERM to SIGKILL; SageMaker gives 120
    jobs: dict[str, Job] = field(default_factory=dict)
    calls: Counter[str] = field(default_factory=Counter)
    refusals: dict[str, Refusal] = field(default_factory=dict)
    fails: dict[str, tuple[str, int]] = field(default_factory=dict)
    command: list[str] | None = None  # instead of the entry point
    held_at: str | None = None  # the state that jobs do not leave
    lock: threading.RLock = field(default_factory=threading.RLock)

    def refuse(self, action: str, code: str, **how: Any) -> None:
        self.refusals[action] = Refusal(code, **how)

    def behave(self) -> None:
        """As a service that has nothing against anybody."""
        self.refusals.clear()
        self.fails.clear()
        self.calls.clear()
        self.command, self.held_at = None, None

    def client(self) -> Any:
        return boto3.client("sagemaker", region_name=REGION, endpoint_url=self.url, **KEYS)

    def states(self) -> dict[str, str]:
        return {name: job.secondary for name, job in self.jobs.items()}

    def stop_all(self) -> None:
        """Back when no job lives."""
        for job in self.jobs.values():
            if job.status == "InProgress":
                self.StopTrainingJob({"TrainingJobName": job.name})
        while any(job.status not in OVER for job in self.jobs.values()):
            time.sleep(0.01)

    def interrupt(self, name: str) -> None:
        """Take the spot machine away."""
        self.jobs[name].asked_to = "interrupt"

    # The wire

    def answer(self, action: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        with self.lock:
            self.calls[action] += 1
            refusal = self.refusals.get(action)
            if refusal and refusal.times:
                refusal.times -= 1
                if refusal.after:
                    getattr(self, action)(body)
                return refusal.status, {"__type": refusal.code, "message": refusal.message}
            try:
                return 200, getattr(self, action)(body)
            except _RefusedError as refused:
                return 400, {"__type": refused.code, "message": refused.message}

    def CreateTrainingJob(self, body: dict[str, Any]) -> dict[str, Any]:
        if body["TrainingJobName"] in self.jobs:
            raise _RefusedError("ResourceInUse", "Training job names must be unique within an AWS account and region")
        limits = body["StoppingCondition"]
        if body.get("EnableManagedSpotTraining") != ("MaxWaitTimeInSeconds" in limits) and "MaxWaitTimeInSeconds" in limits:
            raise _RefusedError("ValidationException", "MaxWaitTimeInSeconds is for managed spot training")
        if limits.get("MaxWaitTimeInSeconds", limits["MaxRuntimeInSeconds"]) < limits["MaxRuntimeInSeconds"]:
            raise _RefusedError("ValidationException", "MaxWaitTimeInSeconds must be at least MaxRuntimeInSeconds")
        job = Job(body, self.folder / body["TrainingJobName"])
        self.jobs[job.name] = job
        threading.Thread(target=self._live, args=(job,), name=job.name, daemon=True).start()
        return {"TrainingJobArn": job.arn}

    def DescribeTrainingJob(self, body: dict[str, Any]) -> dict[str, Any]:
        job = self._job(body)
        told = {key: value for key, value in job.request.items() if key != "Tags"} | {
            "TrainingJobArn": job.arn,
            "TrainingJobStatus": job.status,
            "SecondaryStatus": job.secondary,
            "SecondaryStatusTransitions": job.transitions,
            "CreationTime": job.made_at,
            "ModelArtifacts": {"S3ModelArtifacts": job.model},
        }
        if job.reason:
            told["FailureReason"] = job.reason
        return told | ({"BillableTimeInSeconds": job.billable} if job.billable else {})

    def StopTrainingJob(self, body: dict[str, Any]) -> dict[str, Any]:
        job = self._job(body)
        if job.status != "InProgress":
            why = f"The request was rejected because the training job is in status {job.status}."
            raise _RefusedError("ValidationException", why)
        job.asked_to = "stop"
        job.status = "Stopping"
        return {}

    def ListTrainingJobs(self, body: dict[str, Any]) -> dict[str, Any]:
        found = [
            job for job in self.jobs.values()
            if body.get("NameContains", "") in job.name and body.get("StatusEquals", job.status) == job.status
        ]  # fmt: skip
        first, most = int(body.get("NextToken", 0)), body.get("MaxResults", 2)  # few, so that there are pages
        page = {
            "TrainingJobSummaries": [
                {"TrainingJobName": j.name, "TrainingJobArn": j.arn, "CreationTime": j.made_at, "TrainingJobStatus": j.status}
                for j in found[first : first + most]
            ]
        }
        return page | ({"NextToken": str(first + most)} if first + most < len(found) else {})

    def ListTags(self, body: dict[str, Any]) -> dict[str, Any]:
        [job] = [job for job in self.jobs.values() if job.arn == body["ResourceArn"]]
        return {"Tags": job.request.get("Tags", [])}

    def AddTags(self, body: dict[str, Any]) -> dict[str, Any]:
        [job] = [job for job in self.jobs.values() if job.arn == body["ResourceArn"]]
        job.request.setdefault("Tags", []).extend(body["Tags"])
        return {"Tags": job.request["Tags"]}

    def _job(self, body: dict[str, Any]) -> Job:
        if body["TrainingJobName"] not in self.jobs:
            raise _RefusedError("ValidationException", "Requested resource not found.")
        return self.jobs[body["TrainingJobName"]]

    # A job's life

    def _live(self, job: Job) -> None:
        try:
            while True:
                for state in ("Pending", "Starting", "Downloading"):
                    self._enter(job, state)
                    if state == "Downloading":
                        self._download(job)
                    self._rest(job)
                self._enter(job, "Training")
                if not self._train(job):
                    break
                self._enter(job, "Interrupted")
                self._rest(job)
            self._enter(job, "Uploading")
            self._upload(job)
            self._rest(job)
            state = "Completed" if job.asked_to is None else "MaxRuntimeExceeded" if job.asked_to == "too long" else "Stopped"
            self._over(job, "Completed" if state == "Completed" else "Stopped", state)
        except _StopError:
            self._enter(job, "Stopping")
            self._over(job, "Stopped", "Stopped")
        except _FailError as failed:
            job.reason = str(failed)
            self._over(job, "Failed", "Failed")

    def _enter(self, job: Job, state: str) -> None:
        now = time.time()
        with self.lock:
            if job.transitions:
                job.transitions[-1]["EndTime"] = now
            job.transitions.append({"Status": state, "StartTime": now})
            job.secondary = state
            reason, times = self.fails.get(state, ("", 0))
            if times:
                self.fails[state] = (reason, times - 1)
                raise _FailError(reason)

    def _over(self, job: Job, status: str, secondary: str) -> None:
        with self.lock:
            job.transitions[-1]["EndTime"] = time.time()
            started = [step["StartTime"] for step in job.transitions if step["Status"] == "Training"]
            job.billable = max(1, round(time.time() - started[0])) if started else 0
            job.secondary, job.status = secondary, status

    def _rest(self, job: Job) -> None:
        until = time.monotonic() + self.steps
        while time.monotonic() < until or self.held_at == job.secondary:
            if job.asked_to == "stop" and job.secondary != "Uploading":
                raise _StopError
            time.sleep(0.02)

    def _download(self, job: Job) -> None:
        """The container's folder, with its channels in it."""
        for name in ("input/config", "input/data", "model", "output/data", "checkpoints"):
            (job.folder / name).mkdir(parents=True, exist_ok=True)
        config, channels = job.folder / "input" / "config", {}
        for channel in job.request.get("InputDataConfig", []):
            name, uri = channel["ChannelName"], channel["DataSource"]["S3DataSource"]["S3Uri"]
            channels[name] = {"TrainingInputMode": "File", "S3DistributionType": "FullyReplicated"}
            store = Artifacts(uri.rstrip("/"))
            paths = store.sizes()
            if not paths:
                why = f'Data download failed:No S3 objects found under S3 URL "{uri}" given in input data source'
                raise _FailError(f"ClientError: {why}")
            for path in paths:
                target = job.folder / "input" / "data" / name / path
                target.parent.mkdir(parents=True, exist_ok=True)
                store.fetch(path, target)
        (config / "inputdataconfig.json").write_text(json.dumps(channels))
        (config / "hyperparameters.json").write_text(json.dumps(job.request.get("HyperParameters", {})))
        (config / "resourceconfig.json").write_text(json.dumps({"current_host": "algo-1", "hosts": ["algo-1"]}))

    def _train(self, job: Job) -> bool:
        """Until the container is over. True: its spot machine was taken, and there will be another."""
        began = time.monotonic()
        bare = {name: os.environ[name] for name in os.environ if name in ("PATH", "HOME") or name.startswith("AWS_")}
        told = {"PYTHONPATH": str(ROOT), "REFLUX_SAGEMAKER_ROOT": str(job.folder), "TRAINING_JOB_NAME": job.name}
        command = self.command or [sys.executable, *job.request["AlgorithmSpecification"]["ContainerEntrypoint"][1:]]
        with (job.folder / "log").open("ab") as log:
            job.process = subprocess.Popen(command, env=bare | told | job.environment, stdout=log, stderr=log)
        while job.process.poll() is None and job.asked_to is None:
            time.sleep(0.02)
            longest = job.request["StoppingCondition"]["MaxRuntimeInSeconds"] if job.longest is None else job.longest
            if time.monotonic() - began > longest:
                job.asked_to, job.status = "too long", "Stopping"
        self._end(job.process, self.grace if job.asked_to != "interrupt" else 0.5)
        if job.asked_to == "interrupt":
            job.asked_to = None
            return True
        if job.process.returncode and job.asked_to is None:
            said = job.folder / "output" / "failure"
            why = said.read_text() if said.exists() else shlex.join(command)
            raise _FailError(f"AlgorithmError: {why}, exit code: {job.process.returncode}"[:1024])
        return False

    def _end(self, process: "subprocess.Popen[bytes]", grace: float) -> None:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(grace)
        process.kill()
        process.wait()

    def _upload(self, job: Job) -> None:
        model = job.folder / "model.tar.gz"
        with tarfile.open(model, "w:gz") as tar:
            tar.add(job.folder / "model", arcname=".")
        where = job.request["OutputDataConfig"]["S3OutputPath"]
        url = urlsplit(where)
        path = f"{url.path.strip('/')}/{job.name}/output/model.tar.gz"
        Artifacts(f"s3://{url.netloc}").put_file(path, model)
        job.model = f"s3://{url.netloc}/{path}"


class _RefusedError(Exception):
    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)
        self.code, self.message = code, message


class _FailError(Exception):
    """With the job's FailureReason."""


class _StopError(Exception):
    """A job was stopped before it had a container."""


@contextmanager
def sagemaker_service(folder: Path) -> Iterator[Service]:
    there = Service(folder)

    class Door(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or "{}")
            action = self.headers["X-Amz-Target"].removeprefix("SageMaker.")
            status, answer = there.answer(action, body)
            payload = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/x-amz-json-1.1")
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        def log_message(self, *_: object) -> None:
            """Nothing is printed."""

    door = ThreadingHTTPServer(("127.0.0.1", 0), Door)
    there.url = f"http://127.0.0.1:{door.server_port}"
    threading.Thread(target=door.serve_forever, daemon=True).start()
    try:
        yield there
    finally:
        there.grace, there.held_at = 0.1, None
        there.stop_all()
        door.shutdown()
        door.server_close()
