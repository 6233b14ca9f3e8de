"""Commands for the GPU trainer, made by hand, on a store with a few rows and prompts."""

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from reflux.artifacts import Artifacts
from reflux.commands import Command, Generate, Train
from reflux.records import Answer, Correction, Example, Lineage, Message, Prompt, TeacherAnswer, Verdict
from reflux.spec import RunSpec
from reflux.stages import Stage
from reflux.task import Task

SYSTEM = "Answer with one C function."


def filled(url: str) -> Artifacts:
    store = Artifacts(url)
    store.write_rows("in/train.jsonl", [example(n) for n in range(12)])
    store.write_rows("in/val.jsonl", [example(n) for n in range(20, 24)])
    store.write_rows("in/prompts.jsonl", [prompt(n, "practice") for n in range(7)] + [prompt(n, "dev") for n in range(7, 10)])
    return store


def copied(store: Artifacts) -> Artifacts:
    """Another store with the same input and nothing else."""
    twin = Artifacts(store.url + "-twin")
    for path in store.paths("in"):
        twin.put(path, store.get(path))
    return twin


def example(number: int) -> Example:
    messages = (
        Message(role="user", content=f"Write a C function that returns the priority {number} of a frame."),
        Message(role="assistant", content=f"```c\nuint8_t priority(void)\n{{\n    return {number}U;\n}}\n```"),
    )
    return Example(id=f"e{number}", messages=messages, family=f"f{number}", lineage=Lineage(origin="source"))


def prompt(number: int, part: Any) -> Prompt:
    return Prompt(id=f"p{number}", text=f"Write a C function that clamps {'a sample ' * number}.", set=part, family=f"f{number}")


def make_spec(model: Path | str, **sections: dict[str, Any]) -> RunSpec:
    training = {
        "max_steps": 8,
        "batch_size": 2,
        "accumulation": 2,
        "learning_rate": 1e-2,
        "warmup_steps": 2,
        "log_steps": 2,
        "eval_steps": 4,
        "checkpoint_steps": 3,
        "max_length": 256,
        "gradient_checkpointing": False,
    }
    return RunSpec.model_validate(
        {
            "data": {"sources": [{"uri": "file:///sources"}]},
            "student": {"model": str(model), "method": "lora", "device": "cpu"} | sections.get("student", {}),
            "lora": {"r": 8, "alpha": 16},
            "prompts": {"system": SYSTEM},
            "training": training | sections.get("training", {}),
            "generation": {"max_new_tokens": 24, "batch_size": 4, "chunk_size": 2} | sections.get("generation", {}),
            "export": sections.get("export", {}),
            "limits": {"min_disk_gb": 0} | sections.get("limits", {}),
        }
    )


def train_command(**fields: Any) -> Train:
    return Train(stage=Stage.TRAINING, epoch=1, train_path="in/train.jsonl", val_path="in/val.jsonl", **fields)


def generate_command(**fields: Any) -> Generate:
    fields = {"model": "student", "sets": ("practice", "dev"), "max_new_tokens": 24} | fields
    return Generate(stage=Stage.REFINING, epoch=1, prompts_path="in/prompts.jsonl", **fields)


def make_task(store: Artifacts, spec: RunSpec, command: Command, attempt: int = 1) -> Task:
    return Task(run_id="r1", command=command, spec=spec, artifacts=store, attempt=attempt)


class StoppedBy(Task):
    """A task that is asked to stop once a condition on what it reports holds."""

    def __init__(self, task: Task, when: Callable[[float], bool], why: str = "pause") -> None:
        super().__init__(task.run_id, task.command, task.spec, task.artifacts, attempt=task.attempt)
        self.when, self.why = when, why

    def progress(self, done: float, total: float, note: str = "") -> None:
        super().progress(done, total, note)
        if self.when(done):
            self.stop = self.why


@contextmanager
def little_memory(more: int) -> Iterator[None]:
    """Of the machine's memory, this process gets no more than `more` bytes beyond what it has."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + more, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def lines(task: Task) -> str:
    return "\n".join(line["line"] for line in task.drain()["logs"])


def weights(store: Artifacts, path: str) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = load_file(Path(store.url.removeprefix("file://")) / path / "adapter_model.safetensors")
    return tensors


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def taught(number: int, text: str) -> TeacherAnswer:
    return TeacherAnswer(prompt_id=f"p{number}", prompt=prompt(number, "practice").text, text=text, model="teacher")


def correction(number: int, text: str, *, admitted: bool) -> Correction:
    verdict = Verdict(
        prompt_id=f"p{number}", overall=3, syntax=3, protocol=3, safety=3, style=3, compiles=False, code="", rubric="1"
    )
    attempt = Answer(prompt_id=f"p{number}", prompt="", text="bad")
    return Correction(
        prompt_id=f"p{number}",
        prompt=prompt(number, "practice").text,
        attempt=attempt,
        attempt_verdict=verdict,
        answer=taught(number, text),
        verdict=verdict,
        admitted=admitted,
    )
