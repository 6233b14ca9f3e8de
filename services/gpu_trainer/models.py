"""The models in this process's memory: one base, kept over commands, runs and epochs."""

import gc
import os
import queue
import resource
import warnings
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from bitsandbytes.nn import Linear4bit
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from reflux import spec, traces
from reflux.errors import Terminal
from reflux.task import Task
from services.gpu_trainer import ranks, weights
from services.gpu_trainer.chat import FALLBACK_TEMPLATE
from services.gpu_trainer.question import Asked


@dataclass
class Student:
    """A base model without any adapter, frozen, and its tokenizer."""

    name: str
    revision: str | None
    folder: Path
    model: Any
    tokenizer: Any
    device: torch.device
    dtype: torch.dtype
    quantized: bool

    @cached_property
    def stop_ids(self) -> frozenset[int]:
        """Tokens that end an answer."""
        ends = self.model.generation_config.eos_token_id
        ends = ends if isinstance(ends, list) else [ends]
        return frozenset(end for end in [*ends, self.tokenizer.eos_token_id] if end is not None)

    @cached_property
    def backtick_ids(self) -> frozenset[int]:
        """Tokens that may close a code fence."""
        return frozenset(index for token, index in self.tokenizer.get_vocab().items() if "`" in token)

    @cached_property
    def has_window(self) -> bool:
        """Whether some layers look back over a number of tokens only."""
        return "sliding_attention" in (getattr(self.model.config.get_text_config(), "layer_types", None) or ())

    @property
    def context(self) -> int:
        """How many tokens the model can attend to."""
        return int(self.model.config.get_text_config().max_position_embeddings)


class Bench:
    """Holds the base model that was asked for last: another run on the same base swaps adapters, and reloads nothing.

    `questions` are those that wait for the next chunk's border.
    """

    def __init__(self, questions: "queue.SimpleQueue[Asked] | None" = None) -> None:
        self.questions = questions or queue.SimpleQueue()
        self._key: tuple[object, ...] = ()
        self._student: Student | None = None

    def load(self, task: Task, *, quantize: bool = True) -> Student:
        """The student of the task's spec. Terminal if there is no such model, or no GPU where one is demanded."""
        wanted = task.spec.student
        device = _device(wanted)
        dtype = _dtype(wanted, device)
        quantized = quantize and wanted.quantization == "nf4"
        folder, commit = weights.find(wanted.model, wanted.revision, task)
        key = (wanted.model, folder, quantized, dtype, device)
        if self._student is None or key != self._key:
            self.forget()
            task.log(
                f"loading {wanted.model} on {device} as {'nf4, computing in ' if quantized else ''}{dtype}".replace("torch.", "")
            )
            with traces.span("load student", task.traceparent, {"gen_ai.request.model": wanted.model}):
                model, tokenizer = _load(wanted.model, folder, device, dtype, quantized)
            if not tokenizer.chat_template:
                task.log("the student has no chat template: rows are written as <|user|> and <|assistant|>", level="warning")
                tokenizer.chat_template = FALLBACK_TEMPLATE
            self._student = Student(wanted.model, commit, folder, model, tokenizer, device, dtype, quantized)
            self._key = key
        return self._student

    def forget(self) -> None:
        self._student = None
        free_memory()
        gc.freeze()  # what is left are the libraries' million objects: no later collection needs to look at them


def prepare_torch() -> None:
    """The process-wide switches: TF32 and autotuned convolutions on a GPU."""
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    # PEFT asks transformers by a name that is going to go.
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)


def free_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def memory(device: torch.device) -> dict[str, float]:
    """Gigabytes in use, now and at most: of the GPU by tensors; on a CPU by this process."""
    if device.type == "cuda":
        return {"memory_gb": torch.cuda.memory_allocated() / 1e9, "peak_memory_gb": torch.cuda.max_memory_allocated() / 1e9}
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"memory_gb": pages * resource.getpagesize() / 1e9, "peak_memory_gb": peak_kib * 1024 / 1e9}


def memory_there_is(device: torch.device) -> tuple[float, float]:
    """Gigabytes that are free, and all there are: on the GPU, or in this machine."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info()
        return free / 1e9, total / 1e9
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    free, total = (int(lines[name].split()[0]) for name in ("MemAvailable", "MemTotal"))
    return free * 1024 / 1e9, total * 1024 / 1e9


def out_of_memory(error: RuntimeError) -> bool:
    """Whether a GPU's memory or (then it is a bare RuntimeError) the machine's ran out."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _device(wanted: spec.Student) -> torch.device:
    if wanted.device == "cuda" and not torch.cuda.is_available():
        raise Terminal("gpu_missing", "student.device is cuda, and this worker sees no CUDA GPU.")
    if wanted.device == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())


def _dtype(wanted: spec.Student, device: torch.device) -> torch.dtype:
    """bf16 on a GPU that has it; fp32 on a CPU, where bf16 arithmetic is emulated and a hundred times slower."""
    if wanted.dtype != "auto":
        return torch.bfloat16 if wanted.dtype == "bfloat16" else torch.float32
    return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float32


def _load(name: str, folder: Path, device: torch.device, dtype: torch.dtype, quantized: bool) -> tuple[Any, Any]:
    options: dict[str, Any] = {
        "dtype": dtype,
        # What the ranks are going to share out must not pass through the memory of one GPU.
        "device_map": {"": "cpu" if ranks.sharded() else str(device)},
        "trust_remote_code": False,
        "use_safetensors": True,
    }
    if quantized:
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
            bnb_4bit_quant_storage=dtype if ranks.sharded() else torch.uint8,  # FSDP shares out floats alone
        )
    try:
        model = AutoModelForCausalLM.from_pretrained(folder, **options)
        tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left", trust_remote_code=False)
    except (ValueError, OSError, ImportError) as error:
        first_line = str(error).strip().split("\n")[0]
        raise Terminal("model_not_found", f"{name} can't be loaded: {first_line}") from error
    model.requires_grad_(False).eval()
    for module in model.modules() if quantized else ():
        if isinstance(module, Linear4bit):
            # On a CPU with AVX512-BF16, the first answer would repack the weights into a layout that no gradient passes.
            module.support_avx512bf16_for_cpu = False
    # On a CPU, sharing out the small operations of a small model costs more than it brings.
    cores = max(1, len(os.sched_getaffinity(0)) // ranks.count())
    torch.set_num_threads(1 if model.num_parameters() < 10_000_000 else cores)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return model, tokenizer
