"""The student's answers to the prompts, chunk by chunk.

prompts.jsonl ─► chunks of fixed composition (one set each, prompts of like length) ─► groups of chunks that fill a batch
                                                                                            │
   all answers of a group are written together, the adapter merged ◄────────────────────────┘
         ├─► {pieces}/student-practice-0003.jsonl, create-only; announced as soon as its last answer has ended
         └─► before the next group: questions of people who wait (infer.py)

On a GPU, several groups are written at once while memory allows; when it runs out, half as many answers.
"""

import tempfile
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from reflux import traces
from reflux.commands import Chunk, Generate
from reflux.errors import Terminal
from reflux.events import AnswersGenerated
from reflux.records import Answer, Prompt
from reflux.task import Task
from services.gpu_trainer import adapters, infer
from services.gpu_trainer.chat import encode_prompt
from services.gpu_trainer.models import Bench, Student, free_memory, memory, out_of_memory
from services.gpu_trainer.sampling import Draft, limits, write
from services.gpu_trainer.seeds import seed


@dataclass
class Piece:
    """A chunk and what belongs into it: prompts, each with the number of the answer that is wanted."""

    chunk: Chunk
    wanted: list[tuple[Prompt, int]]
    drafts: list[Draft] = field(default_factory=list)
    stored: bool = False


def generate(task: Task, bench: Bench) -> AnswersGenerated:
    """Carry out a Generate command. Chunks that are stored already stay as they are."""
    command = task.command
    assert isinstance(command, Generate)
    started = time.monotonic()
    pieces = plan(task, command)
    on_store = set(task.artifacts.paths(task.pieces))
    for piece in pieces:
        if piece.chunk.path in on_store:
            piece.stored = True
            task.chunk_done(piece.chunk)
    if not all(piece.stored for piece in pieces):
        _write_missing(task, bench, command, pieces)
    return AnswersGenerated(
        key=command.key,
        seconds=time.monotonic() - started,
        chunks=tuple(piece.chunk for piece in pieces),
        tokens=sum(answer.tokens for piece in pieces for answer in task.artifacts.read_rows(piece.chunk.path, Answer)),
    )


def plan(task: Task, command: Generate) -> list[Piece]:
    """All chunks of the command: the same in every attempt. Prompts of like length come together: the least padding."""
    prompts = sorted(task.artifacts.read_rows(command.prompts_path, Prompt), key=lambda prompt: len(prompt.text))
    size = task.spec.generation.chunk_size
    pieces = []
    for name in command.sets:
        wanted = [(prompt, sample) for prompt in prompts if prompt.set == name for sample in range(command.samples)]
        for index, start in enumerate(range(0, len(wanted), size)):
            part = wanted[start : start + size]
            chunk = Chunk(set=name, index=index, model=command.model, path="", count=len(part))
            pieces.append(Piece(chunk.model_copy(update={"path": f"{task.pieces}/{chunk.name}.jsonl"}), part))
    return pieces


def _write_missing(task: Task, bench: Bench, command: Generate, pieces: list[Piece]) -> None:
    settings = task.spec.generation
    together = max(1, settings.batch_size // settings.chunk_size)
    groups = [pieces[start : start + together] for start in range(0, len(pieces), together)]
    # A group with one chunk missing is written as a whole: in another batch, the same answer may round to other words.
    groups = [group for group in groups if not all(piece.stored for piece in group)]
    progress = Progress(task, total=sum(piece.chunk.count for group in groups for piece in group))
    batch = Batch(settings.batch_size)
    with tempfile.TemporaryDirectory() as temporary:
        folder = task.artifacts.download(command.adapter_path, Path(temporary)) if command.adapter_path else None
        while groups:
            student = bench.load(task)
            with adapters.answering(student, folder) as model:
                # In train mode, an adapter's dropout and gradient checkpointing make generation silently wrong.
                model.eval()
                writer = _Writer(task, student, model, command, batch, progress)
                writer.write_some(groups)
                while groups and bench.questions.empty():
                    writer.write_some(groups)
            infer.answer_waiting(bench)
    free_memory()


@dataclass
class Progress:
    """Counts answers."""

    task: Task
    total: int
    done: int = 0

    def tell(self, further: float = 0) -> None:
        self.task.progress(self.done + further, self.total, "answers")


@dataclass
class Batch:
    """How many answers are written at once: `size`, never more than `most`, which memory has shown to be too many."""

    size: int
    most: int | None = None

    def halve(self) -> None:
        self.size = self.most = (self.size + 1) // 2

    def grow(self, before: float, peak: float, there_is: float) -> None:
        """Double, if four fifths of the memory there is would hold twice what the batch took beyond `before`."""
        if self.most is None and before + 2 * (peak - before) <= 0.8 * there_is:
            self.size *= 2


class _Writer:
    """Writes one group of chunks after the other, and says how it goes."""

    def __init__(self, task: Task, student: Student, model: Any, command: Generate, batch: Batch, progress: Progress) -> None:
        self.task, self.student, self.model = task, student, model
        self.batch, self.progress = batch, progress
        self.sampling, self.prompt_limit = limits(student, task.spec.generation, command.max_new_tokens)
        new_tokens = self.sampling.max_new_tokens
        if new_tokens < command.max_new_tokens:
            task.log(f"answers are limited to {new_tokens} tokens by the student's context of {student.context}", level="warning")

    def write_some(self, groups: list[list[Piece]]) -> None:
        """Write as many groups as the batch holds, the first at least, and take them off."""
        count = max(1, self.batch.size // self.task.spec.generation.batch_size)
        some, groups[:] = groups[:count], groups[count:]
        if self.student.device.type != "cuda":
            # Where arithmetic is exact enough to promise the same texts, a batch keeps its shape.
            self.write([piece for group in some for piece in group])
            return
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        self.write([piece for group in some for piece in group])
        if len(some) == count:
            there_is = torch.cuda.get_device_properties(0).total_memory
            self.batch.grow(before, torch.cuda.max_memory_allocated(), there_is)

    def write(self, pieces: list[Piece]) -> None:
        began = time.monotonic()
        for piece in pieces:
            piece.drafts = [self._draft(prompt, sample) for prompt, sample in piece.wanted]
        drafts = sorted((draft for piece in pieces for draft in piece.drafts), key=lambda draft: len(draft.prompt))
        if cut := sum(draft.cut for draft in drafts):
            self.task.log(f"{cut} prompts were cut to {self.prompt_limit} tokens", level="warning")
        with traces.span("write answers", self.task.traceparent, {"reflux.answers": len(drafts)}):
            while drafts:
                batch = drafts[: self.batch.size]
                try:
                    write(self.student, self.model, batch, self.sampling, partial(self._after_token, pieces, len(batch)))
                except RuntimeError as error:
                    if not out_of_memory(error):
                        raise
                    self._halve(error)
                    for draft in batch:
                        draft.restart()
                    continue
                drafts = drafts[len(batch) :]
                self.progress.done += len(batch)
        tokens = sum(len(draft.ids) for piece in pieces for draft in piece.drafts)
        self.progress.tell()
        speed = tokens / (time.monotonic() - began)
        self.task.metrics(
            self.progress.done, generated_tokens_per_second=speed, generation_batch=self.batch.size, **memory(self.student.device)
        )

    def _draft(self, prompt: Prompt, sample: int) -> Draft:
        ids, cut = encode_prompt(self.student.tokenizer, self.task.spec.prompts.system, prompt.text, self.prompt_limit)
        return Draft(ids, seed=seed(self.task.spec.seed, self.task.command.epoch, prompt.id, sample), cut=cut)

    def _after_token(self, pieces: list[Piece], answers: int, tokens: int) -> None:
        """Store each chunk of which the last answer has just ended."""
        for piece in pieces:
            if not piece.stored and all(draft.finish_reason for draft in piece.drafts):
                self.task.artifacts.create(piece.chunk.path, _rows(piece))
                self.task.chunk_done(piece.chunk)
                piece.stored = True
        self.progress.tell(answers * tokens / self.sampling.max_new_tokens)
        self.task.check()

    def _halve(self, error: RuntimeError) -> None:
        free_memory()
        if self.batch.size == 1:
            first_line = str(error).split("\n")[0]
            raise Terminal("gpu_out_of_memory", f"A single answer does not fit into memory: {first_line}") from error
        self.batch.halve()
        self.task.log(f"out of memory: going on with {self.batch.size} answers at a time", level="warning")


def _rows(piece: Piece) -> bytes:
    answers = [
        Answer(
            prompt_id=prompt.id,
            prompt=prompt.text,
            domain=prompt.domain,
            sample=sample,
            text=draft.text,
            tokens=len(draft.ids),
            finish_reason=draft.finish_reason or "length",
        )
        for (prompt, sample), draft in zip(piece.wanted, piece.drafts, strict=True)
    ]
    return "".join(answer.model_dump_json() + "\n" for answer in answers).encode()
