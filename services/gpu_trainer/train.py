"""Supervised fine-tuning of a LoRA adapter, one file from rows to adapter.

    rows ─► token ids, with the assistant's marked ─► plan: the rows of each step
                                                         │
         ┌──────────────── one optimizer step ◄──────────┘
         │  for each batch that fits into memory: forward, loss of the assistant's tokens, backward
         │  clip the gradient, set the learning rate, AdamW
         └─► validate, checkpoint, stop early ─► adapter/, metrics.json

What a step does depends on the checkpoint before it and on its own number, and on nothing else: a training that is killed and
goes on elsewhere ends with the same adapter (bit for bit in fp32 on a CPU).
"""

import math
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from reflux.commands import Train
from reflux.errors import Stopped, Terminal
from reflux.events import AdapterTrained
from reflux.spec import Training
from reflux.task import Task
from services.gpu_trainer import adapters, checkpoints, rows
from services.gpu_trainer.chat import Encoded, encode
from services.gpu_trainer.models import Bench, Student, free_memory, out_of_memory
from services.gpu_trainer.seeds import seed

MAX_GRADIENT_NORM = 1.0


def train(task: Task, bench: Bench) -> AdapterTrained:
    """Carry out a Train command. Raises Terminal for nan_loss, gpu_out_of_memory and bad rows; Stopped once it has saved."""
    command = task.command
    assert isinstance(command, Train)
    if manifest := checkpoints.finished(task):
        task.log("an earlier attempt has finished this adapter: it is taken")
        return AdapterTrained.model_validate(manifest["event"])

    started = time.monotonic()
    conversations = rows.training_rows(task, command)
    held_out_conversations = rows.validation_rows(task, command)
    student = bench.load(task)
    examples = _encoded(task, student, conversations)
    held_out = _encoded(task, student, held_out_conversations)
    if not examples:
        raise Terminal("empty_dataset", "No row has an answer within training.max_length.", "Raise training.max_length.")
    plan = rows.plan(len(examples), task.spec, command.epoch)

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        start = task.artifacts.download(command.adapter_path, folder / "start") if command.adapter_path else None
        torch.manual_seed(seed(task.spec.seed, command.epoch, "start"))
        with adapters.trainable(student, task.spec, start) as model:
            run = _Run(task, student, model, examples, held_out, plan)
            run.to_the_end()
            adapters.save(student, model, folder / "adapter")
        free_memory()
        task.artifacts.upload(folder / "adapter", f"{task.folder}/adapter")

    state = run.state
    event = AdapterTrained(
        key=command.key,
        seconds=time.monotonic() - started,
        adapter_path=f"{task.folder}/adapter",
        train_loss=sum(state.losses) / len(state.losses),
        val_loss=state.val_losses[max(state.val_losses)] if state.val_losses else None,
        steps=state.step,
        rows=len(examples),
        rows_truncated=sum(row.truncated for row in examples),
    )
    manifest = {"event": event.model_dump(mode="json"), "losses": state.losses, "val_losses": state.val_losses}
    task.artifacts.put_json(f"{task.folder}/metrics.json", manifest)
    return event


def learning_rate(step: int, steps: int, training: Training) -> float:
    """Of step 1 … steps: up in a line over the warm-up (at most a third of the steps), then down a cosine, almost to zero."""
    warmup = min(training.warmup_steps, steps // 3)
    if step <= warmup:
        return training.learning_rate * step / warmup
    return training.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup + 1)))


def answer_loss(model: Any, batch: Sequence[Encoded], pad_id: int) -> torch.Tensor:
    """The summed cross-entropy of the assistant's tokens in a batch.

    The model turns only those positions into logits that predict such a token: with a vocabulary of 50,000, the rest would be
    a fifth of a small student's work, and most of its memory.
    """
    device = next(model.parameters()).device
    width = max(len(row.ids) for row in batch)
    ids = torch.full((len(batch), width), pad_id)
    attention = torch.zeros(len(batch), width, dtype=torch.long)
    targets = torch.full((len(batch), width), -100)
    for index, row in enumerate(batch):
        length = len(row.ids)
        ids[index, :length] = torch.tensor(row.ids)
        attention[index, :length] = 1
        targets[index, :length] = torch.where(torch.tensor(row.learnt), ids[index, :length], -100)
    # Position i predicts token i + 1.
    targets = targets[:, 1:]
    positions = (targets != -100).any(dim=0).nonzero().squeeze(1)
    with torch.autocast(device.type, torch.bfloat16) if device.type == "cuda" else nullcontext():
        output = model(
            input_ids=ids.to(device), attention_mask=attention.to(device), logits_to_keep=positions.to(device), use_cache=False
        )
    wanted = targets[:, positions].to(device)
    return functional.cross_entropy(output.logits.float().flatten(0, 1), wanted.flatten(), ignore_index=-100, reduction="sum")


@dataclass
class _Run:
    """One training of one adapter. `state` and the tensors in `parameters`, `optimizer` and `best` are all that changes."""

    task: Task
    student: Student
    model: Any
    examples: list[Encoded]
    held_out: list[Encoded]
    plan: list[list[int]]
    best: checkpoints.Tensors = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.settings = self.task.spec.training
        self.parameters = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        self.optimizer = torch.optim.AdamW(self.parameters.values(), lr=0.0, weight_decay=0.0, fused=True)
        self.state = checkpoints.State(rows=len(self.examples), steps=len(self.plan), batch_size=self.settings.batch_size)
        self.saved_at = 0

    def to_the_end(self) -> None:
        self.state, self.best = checkpoints.resume(self.task, self.state, self.parameters, self.optimizer)
        self.saved_at = self.state.step
        if self.settings.gradient_checkpointing:
            self.model.activation_checkpointing_enable()
        self.model.train()
        try:
            while True:
                if self._validation_is_due():
                    self._validate()
                if self.state.step % self.settings.checkpoint_steps == 0 and self.state.step < len(self.plan):
                    self._checkpoint()
                if self.state.step == len(self.plan) or self._gets_worse():
                    break
                self._next_step()
        except Stopped:
            self._checkpoint()
            raise
        finally:
            # In train mode, checkpointing makes generation silently wrong: nothing of it may outlive the training.
            self.model.eval()
            if self.settings.gradient_checkpointing:
                self.model.activation_checkpointing_disable()
                self.model.disable_input_require_grads()
        if self._gets_worse():
            self.task.log(f"stopped early at step {self.state.step}: validation was best at step {self.state.best_step}")
            for name, tensor in self.best.items():
                self.parameters[name].data.copy_(tensor)

    def _next_step(self) -> None:
        step, steps = self.state.step + 1, len(self.plan)
        batch = [self.examples[index] for index in self.plan[step - 1]]
        began = time.monotonic()
        loss, norm = self._optimize(step, batch)
        self.state.step = step
        self.state.losses.append(loss)
        self.task.progress(step, steps, "steps")
        if step % self.settings.log_steps == 0 or step in (1, steps):
            seconds = time.monotonic() - began
            self.task.metrics(
                step,
                loss=loss,
                learning_rate=learning_rate(step, steps, self.settings),
                gradient_norm=norm,
                step_seconds=seconds,
                tokens_per_second=sum(len(row.ids) for row in batch) / seconds,
                **_memory(self.student.device),
            )

    def _optimize(self, step: int, batch: list[Encoded]) -> tuple[float, float]:
        """One optimizer step over all rows of `batch`; the mean loss of their answers' tokens, and the gradient's norm."""
        while True:
            torch.manual_seed(seed(self.task.spec.seed, self.task.command.epoch, step))
            self.optimizer.zero_grad(set_to_none=True)
            try:
                loss = self._backward(step, batch)
                break
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                self._halve(error)
        norm = float(torch.nn.utils.clip_grad_norm_(self.parameters.values(), MAX_GRADIENT_NORM))
        if not math.isfinite(loss) or not math.isfinite(norm):
            ids = ", ".join(row.id for row in batch)
            self.task.log(f"rows of step {step}: {ids}; memory {_memory(self.student.device)}", level="error")
            raise Terminal("nan_loss", f"At step {step} the loss was {loss}, the gradient's norm {norm} (rows {ids:.300}).")
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(step, len(self.plan), self.settings)
        self.optimizer.step()
        return loss, norm

    def _backward(self, step: int, batch: list[Encoded]) -> float:
        """Gradients of the mean over the whole step's tokens, so that they don't depend on how the step is cut into batches."""
        tokens = sum(row.targets for row in batch)
        total = torch.zeros((), device=self.student.device)
        for part in _batches(batch, self.state.batch_size):
            self.task.check()
            loss = answer_loss(self.model, part, self.student.tokenizer.pad_token_id) / tokens
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
            self.task.progress(step - 1, len(self.plan), "steps")
        return float(total)

    def _halve(self, error: RuntimeError) -> None:
        free_memory()
        if self.state.batch_size == 1:
            first_line = str(error).split("\n")[0]
            raise Terminal("gpu_out_of_memory", f"A single row of training does not fit into memory: {first_line}") from error
        self.state.batch_size = (self.state.batch_size + 1) // 2
        self.task.log(f"out of memory: going on with batches of {self.state.batch_size}, more of them", level="warning")

    def _gets_worse(self) -> bool:
        return self.state.worse >= self.settings.early_stop_patience

    def _validation_is_due(self) -> bool:
        step = self.state.step
        wanted = step > 0 and (step % self.settings.eval_steps == 0 or step == len(self.plan))
        return bool(self.held_out) and wanted and step not in self.state.val_losses

    def _validate(self) -> None:
        step = self.state.step
        self.model.eval()
        total = 0.0
        with torch.no_grad():
            for part in _batches(self.held_out, self.state.batch_size):
                self.task.check()
                total += float(answer_loss(self.model, part, self.student.tokenizer.pad_token_id))
                self.task.progress(step, len(self.plan), "steps")
        self.model.train()
        loss = total / sum(row.targets for row in self.held_out)
        state = self.state
        state.val_losses[step] = loss
        self.task.metrics(step, val_loss=loss)
        if state.best_val_loss is None or loss < state.best_val_loss:
            state.best_val_loss, state.best_step, state.worse = loss, step, 0
            self.best = {name: parameter.detach().to("cpu", copy=True) for name, parameter in self.parameters.items()}
        else:
            state.worse += 1

    def _checkpoint(self) -> None:
        if self.state.step > self.saved_at:
            checkpoints.save(self.task, self.state, self.parameters, self.optimizer, self.best)
            self.saved_at = self.state.step


def _encoded(task: Task, student: Student, conversations: list[rows.Row]) -> list[Encoded]:
    length = min(task.spec.training.max_length, student.context)
    encoded = [encode(student.tokenizer, student.stop_ids, row.id, row.messages, length) for row in conversations]
    kept = [row for row in encoded if row.targets]
    if truncated := sum(row.truncated for row in encoded):
        lost = len(encoded) - len(kept)
        task.log(
            f"{truncated} of {len(encoded)} rows were cut to {length} tokens; {lost} lost all of their answer", level="warning"
        )
    return kept


def _batches(batch: list[Encoded], size: int) -> Iterator[list[Encoded]]:
    """Rows of like length together: less padding."""
    by_length = sorted(batch, key=lambda row: len(row.ids))
    for start in range(0, len(by_length), size):
        yield by_length[start : start + size]


def _memory(device: torch.device) -> dict[str, float]:
    """Gigabytes in use on the GPU, now and at most."""
    if device.type != "cuda":
        return {}
    return {"memory_gb": torch.cuda.memory_allocated() / 1e9, "peak_memory_gb": torch.cuda.max_memory_allocated() / 1e9}
