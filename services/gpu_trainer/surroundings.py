"""What is around a user's command: its folders, the whole of its environment, and a container where it is asked for."""

import ctypes
import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from reflux.errors import Terminal
from reflux.task import Task
from services.gpu_trainer import sagemaker

PR_SET_DUMPABLE = 4
PASSED_ON = (
    *("LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "HF_ENDPOINT"),
    *("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "OMP_NUM_THREADS"),
)
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
INSIDE = Path("/opt/reflux")  # where a container sees the job's folders


@dataclass
class Place:
    """A job's folders, below one that is its own; but for those that it was `given`."""

    root: Path
    given: dict[str, Path] = field(default_factory=dict)

    @property
    def folders(self) -> dict[str, Path]:
        return {name: self.root / name for name in ("code", "inputs", "outputs", "checkpoints", "tmp")} | self.given

    def make(self) -> None:
        """The folders, all but given inputs empty."""
        for name, folder in self.folders.items():
            if name in self.given and name != "inputs":
                for left in folder.iterdir():
                    shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()
            folder.mkdir(exist_ok=True)

    @property
    def parameters(self) -> Path:
        return self["tmp"] / "parameters.json"

    def __getitem__(self, name: str) -> Path:
        return self.folders[name]


def variables(task: Task, place: Place) -> dict[str, str]:
    """The whole environment of the command, whose folders it sees at `place`."""
    inputs, outputs, checkpoints = (str(place[name]) for name in ("inputs", "outputs", "checkpoints"))
    ours = {
        "PATH": f"{Path(sys.executable).parent}:{SYSTEM_PATH}",
        "HOME": str(place["tmp"]),
        "TMPDIR": str(place["tmp"]),
        "PYTHONUNBUFFERED": "1",
        "REFLUX_RUN_ID": task.run_id,
        "REFLUX_ATTEMPT": str(task.attempt),
        "REFLUX_SEED": str(task.spec.seed),
        "REFLUX_INPUTS": inputs,
        "REFLUX_OUTPUTS": outputs,
        "REFLUX_CHECKPOINTS": checkpoints,
        "REFLUX_PARAMETERS": str(place.parameters),
        "SM_CHANNEL_TRAINING": inputs,
        "SM_OUTPUT_DATA_DIR": outputs,
        "SM_MODEL_DIR": outputs,
        "SM_CHECKPOINT_DIR": checkpoints,
        "SM_HPS": json.dumps(task.spec.job.parameters),
    }
    if task.traceparent:
        ours["TRACEPARENT"] = task.traceparent
    passed_on = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    return passed_on | ours | sagemaker.variables(task.spec.job.parameters)


def in_container(
    engine: str, name: str, image: str, place: Place, environment: dict[str, str], command: tuple[str, ...]
) -> list[str]:
    """The engine's command line. The image's own PATH stays."""
    told = {key: value for key, value in environment.items() if key not in ("PATH", "LD_LIBRARY_PATH")}
    return [
        *(engine, "run", "--rm", "--init", "--name", name, "--user", f"{os.getuid()}:{os.getgid()}"),
        *("--security-opt", "no-new-privileges", "--cap-drop", "ALL", "--workdir", str(INSIDE / "code")),
        *(["--gpus", "all"] if shutil.which("nvidia-smi") else []),
        *(part for folder in place.folders for part in ("--volume", f"{place[folder]}:{INSIDE / folder}")),
        *(part for key, value in told.items() for part in ("--env", f"{key}={value}")),
        *(image, *command),
    ]


def engines_own(place: Place) -> dict[str, str]:
    """The environment of the engine's client."""
    kept = {name: os.environ[name] for name in ("DOCKER_HOST", "XDG_RUNTIME_DIR") if name in os.environ}
    return {"PATH": SYSTEM_PATH, "HOME": str(place["tmp"])} | kept


def hide() -> None:
    """From now on a process of the same user can't read this one's memory and environment; root still can."""
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)


def allowed() -> bool:
    return os.environ.get("REFLUX_JOBS", "") == "1"


def capabilities() -> dict[str, Any]:
    """Whether this worker runs users' commands, and in containers too."""
    return {"jobs": allowed(), "container_engine": _looked_for() if allowed() else None}


@cache
def _looked_for() -> str | None:
    for name in ("docker", "podman"):
        path = shutil.which(name)
        try:
            if path and subprocess.run([path, "info"], capture_output=True, timeout=20, check=False).returncode == 0:
                return path
        except (OSError, subprocess.TimeoutExpired):
            continue
    return None


def engine_here() -> str:
    if engine := _looked_for():
        return engine
    raise Terminal("no_container_engine", "job.container is set, but neither Docker nor Podman answers on this worker")


def installed() -> str:
    """A hash of the packages that the worker's own Python has, with their versions."""
    packages = sorted(f"{found.name}=={found.version}" for found in metadata.distributions())
    return "sha256:" + hashlib.sha256("\n".join(packages).encode()).hexdigest()
