"""The student's tokenizer without its weights, for whoever measures rows before there is a run."""

import os
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from transformers import AutoTokenizer

from reflux.records import Example
from reflux.spec import Student
from services.gpu_trainer import chat

HUB_FILES = ["tokenizer*", "special_tokens_map.json", "vocab.*", "merges.txt", "*.jinja", "*.model", "config.json"]


def counter(student: Student) -> Callable[[Example], int]:
    """Counts a row's tokens as training does: chat template, system prompt and end mark included."""
    tokenizer = load(student)
    ends = frozenset({tokenizer.eos_token_id})
    return lambda row: len(chat.encode(tokenizer, ends, row.id, row.messages, sys.maxsize).ids)


def load(student: Student) -> Any:
    """From a package, a folder, the hub or its cache. An exception of any kind says why there is none on this machine."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if student.model.startswith("package:"):
        package, _, inside = student.model.removeprefix("package:").partition("/")
        file = Path(str(metadata.distribution(package).locate_file(inside)))
        if not file.is_file():
            raise FileNotFoundError(f"The package {package} has no file {inside}.")
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name, trust_remote_code=False)
    else:
        tokenizer = AutoTokenizer.from_pretrained(_folder(student), trust_remote_code=False)
    tokenizer.model_max_length = sys.maxsize  # else it warns of each row that is longer
    tokenizer.chat_template = tokenizer.chat_template or chat.FALLBACK_TEMPLATE
    return tokenizer


def _folder(student: Student) -> Path:
    folder = Path(student.model).expanduser()
    if folder.is_dir():
        return folder
    if student.model.startswith(("/", ".", "~")):
        raise FileNotFoundError(f"There is no folder {folder}.")
    return Path(snapshot_download(student.model, revision=student.revision, allow_patterns=HUB_FILES))
