"""Inside a SageMaker training job: what its container finds below /opt/ml, and where it says why it failed.

A command sees there what SageMaker's own images would show it: SM_CHANNEL_*, SM_MODEL_DIR, SM_HP_*, SM_TRAINING_ENV and so on.
"""

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

REASON_LENGTH = 1024  # that SageMaker shows of a failure


def root() -> Path | None:
    """/opt/ml of a training job; None: this is none."""
    found = Path(os.environ.get("REFLUX_SAGEMAKER_ROOT", "/opt/ml"))
    return found if (found / "input" / "config").is_dir() else None


def folders() -> dict[str, Path]:
    """Of a job's folders those that are SageMaker's: inputs that it has copied, outputs that it keeps as model.tar.gz."""
    here = root()
    if here is None:
        return {}
    found = {"inputs": here / "input" / "data" / "training", "outputs": here / "model"}
    return {name: path for name, path in found.items() if path.is_dir() and (name == "inputs" or os.access(path, os.W_OK))}


def variables(parameters: dict[str, Any]) -> dict[str, str]:
    """What a command is told beside its own folders: the job's channels, its one host, its hyperparameters."""
    here = root()
    if here is None:
        return {}
    config, resources = here / "input" / "config", _read(here / "input" / "config" / "resourceconfig.json")
    channels = {name: str(here / "input" / "data" / name) for name in _read(config / "inputdataconfig.json")}
    hosts, host = resources.get("hosts", ["algo-1"]), resources.get("current_host", "algo-1")
    told = {
        "SM_CURRENT_HOST": host,
        "SM_HOSTS": json.dumps(hosts),
        "SM_NUM_GPUS": str(len(list(Path("/dev").glob("nvidia[0-9]*")))),
        "SM_CHANNELS": json.dumps(sorted(channels)),
        "SM_INPUT_DIR": str(here / "input"),
        "SM_INPUT_CONFIG_DIR": str(config),
        "SM_OUTPUT_DIR": str(here / "output"),
        "TRAINING_JOB_NAME": os.environ.get("TRAINING_JOB_NAME", ""),
    }
    told |= {f"SM_CHANNEL_{_named(name)}": path for name, path in channels.items()}
    told |= {f"SM_HP_{_named(name)}": v if isinstance(v, str) else json.dumps(v) for name, v in parameters.items()}
    environment = {
        "channel_input_dirs": channels,
        "current_host": host,
        "hosts": hosts,
        "hyperparameters": parameters,
        "job_name": told["TRAINING_JOB_NAME"],
        "model_dir": str(here / "model"),
        "output_dir": told["SM_OUTPUT_DIR"],
    }
    return told | {"SM_TRAINING_ENV": json.dumps(environment)}


@contextmanager
def telling() -> Iterator[None]:
    """Around the whole worker: what ends it is what SageMaker shows as the job's FailureReason."""
    try:
        yield
    except SystemExit as left:
        if isinstance(left.code, str):
            _say_why(left.code)
        raise
    except Exception as error:
        _say_why(f"{type(error).__name__}: {error}")
        raise


def _say_why(reason: str) -> None:
    here = root()
    try:
        if here is not None:
            (here / "output" / "failure").write_text(reason[:REASON_LENGTH], encoding="utf-8")
    except OSError:
        return  # the log has it too


def _named(name: str) -> str:
    return re.sub(r"\W", "_", name).upper()


def _read(file: Path) -> dict[str, Any]:
    return dict(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else {}
