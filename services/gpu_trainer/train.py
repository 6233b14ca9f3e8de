"""Supervised fine-tuning of a LoRA adapter with TRL, in a way that survives its machine.

    rows ─► token ids, and as labels those that the assistant wrote ─► SFTTrainer ─► adapter/, metrics.json, tensorboard/
                                                                           │
                    watch.py: progress, metrics, stops, early stop ◄───────┤ after each batch and each step
              checkpoints.py: the trainer's checkpoint, uploaded ◄─────────┘ every checkpoint_steps, and before a stop

A training that is killed and goes on elsewhere ends with the same adapter (bit for bit in fp32 on a CPU): the trainer's
checkpoint has weights, optimizer, schedule, losses and random states, and the order of the rows is drawn from seed and epoch.
"""

import math
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch.utils.tensorboard import SummaryWriter
from transformers import PrinterCallback, TrainerState
from transformers.integrations import TensorBoardCallback
from trl import SFTConfig, SFTTrainer

from reflux import traces
from reflux.commands import Train
from reflux.errors import Stopped, Terminal
from reflux.events import AdapterTrained
from reflux.task import Task
from services.gpu_trainer import adapters, checkpoints, ranks, room, rows
from services.gpu_trainer.chat import Encoded, encode
from services.gpu_trainer.models import Bench, Student, free_memory, memory, out_of_memory
from services.gpu_trainer.seeds import seed
from services.gpu_trainer.watch import LIMIT, Watch, best_step, losses, validation_losses


def train(task: Task, bench: Bench) -> AdapterTrained:
    """Carry out a Train command. A run's time limit ends it early, with the adapter as it is then.

    Raises Terminal for nan_loss, gpu_out_of_memory and bad rows; Stopped once it has saved.
    """
    command = task.command
    assert isinstance(command, Train)
    if manifest := ranks.by_first(lambda: checkpoints.finished(task)):
        task.log("an earlier attempt has finished this adapter: it is taken")
        return AdapterTrained.model_validate(manifest["event"])

    started = time.monotonic()
    conversations = rows.training_rows(task, command)
    held_out_conversations = rows.validation_rows(task, command)
    student = bench.load(task)
    examples = encoded(task, student, conversations)
    held_out = encoded(task, student, held_out_conversations)
    if not examples:
        raise Terminal("empty_dataset", "No row has an answer within training.max_length.", "Raise training.max_length.")

    free_memory()
    room.report(task, student)
    with traces.span("fine-tune", task.traceparent, {"reflux.rows": len(examples)}) as span:
        state = _fine_tune_in_what_memory_there_is(task, student, examples, held_out)
        span.note({"reflux.steps": state.global_step})
    free_memory()

    steps, validations = losses(state), validation_losses(state)
    event = AdapterTrained(
        key=command.key,
        seconds=time.monotonic() - started,
        adapter_path=f"{task.folder}/adapter",
        train_loss=sum(steps) / len(steps),
        val_loss=validations[max(validations)] if validations else None,
        steps=state.global_step,
        rows=len(examples),
        rows_truncated=sum(row.truncated for row in examples),
    )
    manifest = {
        "event": event.model_dump(mode="json"),
        "student": {"model": student.name, "revision": student.revision},
        "losses": steps,
        "val_losses": validations,
        "best_step": best_step(state),
    }
    if ranks.first():
        task.artifacts.put_json(f"{task.folder}/metrics.json", manifest)
    return event


def encoded(task: Task, student: Student, conversations: list[rows.Row]) -> list[Encoded]:
    """The rows as tokens, without those of which nothing would be learnt."""
    length = _max_length(task, student)
    whole = [encode(student.tokenizer, student.stop_ids, row.id, row.messages, length) for row in conversations]
    kept = [row for row in whole if row.targets]
    if truncated := sum(row.truncated for row in whole):
        lost = len(whole) - len(kept)
        task.log(
            f"{truncated} of {len(whole)} rows were cut to {length} tokens; {lost} lost all of their answer", level="warning"
        )
    return kept


def dataset(examples: list[Encoded]) -> Dataset:
    """Rows as TRL takes them when they are tokens already: what a label of -100 stands at is read, but not learnt."""
    labels = [[token if learnt else -100 for token, learnt in zip(row.ids, row.learnt, strict=True)] for row in examples]
    return Dataset.from_dict({"input_ids": [list(row.ids) for row in examples], "labels": labels})


def config(task: Task, student: Student, folder: Path, batch_size: int, *, validate: bool) -> SFTConfig:
    """The spec's settings in TRL's words. A step takes batch_size · accumulation rows, in whatever batches fit into memory."""
    settings = task.spec.training
    on_cpu = student.device.type == "cpu"
    drawn = seed(task.spec.seed, task.command.epoch, "training") % 2**32  # as NumPy wants it
    return SFTConfig(
        output_dir=str(folder),
        max_length=_max_length(task, student) if settings.packing else None,  # the rows are cut already
        packing=settings.packing,
        eval_packing=False,
        num_train_epochs=settings.epochs,
        max_steps=settings.max_steps or -1,
        per_device_train_batch_size=batch_size,
        per_device_eval_batch_size=batch_size,
        gradient_accumulation_steps=settings.batch_size * settings.accumulation // batch_size // ranks.count(),
        ddp_find_unused_parameters=False,
        learning_rate=settings.learning_rate,
        activation_checkpointing=settings.gradient_checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False},
        use_cpu=on_cpu,
        dataloader_pin_memory=not on_cpu,
        bf16=student.dtype == torch.bfloat16,
        seed=drawn,
        data_seed=drawn,
        # Each loss is logged, so that a checkpoint has them all, and none is hidden for not being a number.
        logging_steps=1,
        logging_nan_inf_filter=False,
        eval_strategy="steps" if validate else "no",
        eval_steps=settings.eval_steps,
        save_steps=settings.checkpoint_steps,
        report_to="none",
        disable_tqdm=True,
    )


def _fine_tune_in_what_memory_there_is(
    task: Task, student: Student, examples: list[Encoded], held_out: list[Encoded]
) -> TrainerState:
    """Halve the batch, and take twice as many of them, until one fits."""
    width = task.spec.training.batch_size * task.spec.training.accumulation
    batch_size = task.spec.training.batch_size
    while True:
        try:
            return _fine_tune(task, student, examples, held_out, batch_size)
        except RuntimeError as error:
            if not out_of_memory(error) or ranks.count() > 1:  # the other ranks are left alone: group.py starts all again
                raise
            batch_size = smaller(task, batch_size, width, error)
        # Not before the error is gone: it holds on to the tensors.
        free_memory()


def smaller(task: Task, batch_size: int, width: int, error: object) -> int:
    """The next batch size to try, of those that divide `width`. Terminal if there is none."""
    if batch_size == 1:
        first_line = str(error).split("\n")[0]
        raise Terminal("gpu_out_of_memory", f"A single row of training does not fit into memory: {first_line}")
    batch_size = max(size for size in range(1, batch_size // 2 + 1) if width % size == 0)
    task.log(f"out of memory: going on with batches of {batch_size}, more of them", level="warning")
    return batch_size


def _fine_tune(task: Task, student: Student, examples: list[Encoded], held_out: list[Encoded], batch_size: int) -> TrainerState:
    """From the newest checkpoint to the adapter's end. Raises Stopped once a stop is obeyed."""
    command = task.command
    assert isinstance(command, Train)
    with tempfile.TemporaryDirectory() as temporary:
        folder = ranks.by_first(lambda: Path(temporary))
        start = ranks.by_first(lambda: _downloaded(task, command.adapter_path, folder / "start"))
        torch.manual_seed(seed(task.spec.seed, command.epoch, "start"))
        with adapters.trainable(student, task.spec, start) as model:
            settings = config(task, student, folder / "trainer", batch_size, validate=bool(held_out))
            ranks.allow_sharding_on_cpu()
            trainer = Trainer(task, student, model, settings, examples, held_out)
            checkpoint = ranks.by_first(lambda: checkpoints.newest(task, trainer.plan, folder / "trainer"))
            records = Path(temporary) / "tensorboard"
            try:
                with SummaryWriter(str(records)) as writer:
                    watch = Watch(task, trainer.plan, writer, checkpoint)
                    trainer.add_callback(TensorBoardCallback(writer))
                    trainer.add_callback(watch)
                    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
            finally:
                if ranks.first():
                    task.artifacts.upload(records, f"{task.folder}/tensorboard")
            if watch.stopped and (watch.stopped != LIMIT or trainer.state.global_step == 0):
                raise Stopped(watch.stopped)
            if watch.stopped:
                task.log(f"ended by the run's {watch.stopped} at step {trainer.state.global_step} of {trainer.state.max_steps}")
            trainer.store(folder / "adapter")
            if best_step(trainer.state) not in (None, trainer.state.global_step) and not watch.gets_worse:
                watch.take_best(model)
                trainer.store(folder / "best")
        ranks.wait()
    return trainer.state


def _downloaded(task: Task, path: str | None, folder: Path) -> Path | None:
    return task.artifacts.download(path, folder) if path else None


class Trainer(SFTTrainer):  # type: ignore[misc]
    """SFTTrainer that halts at the first loss or gradient that is no number, and says which rows it came from.

    `plan` says what it is going to do: a checkpoint of another plan is none of this training.
    """

    def __init__(
        self, task: Task, student: Student, model: Any, args: SFTConfig, examples: list[Encoded], held_out: list[Encoded]
    ) -> None:
        super().__init__(
            model,
            args,
            train_dataset=dataset(examples),
            eval_dataset=dataset(held_out) if held_out else None,
            processing_class=student.tokenizer,
        )
        self.remove_callback(PrinterCallback)
        for parameter in model.parameters():
            if parameter.requires_grad:
                # On a quantized base TRL makes adapters bf16, in which AdamW's small steps are lost.
                parameter.data = parameter.data.float()
        self.task = task
        self.student = student
        self.names = {row.ids: row.id for row in examples}
        self.step_batches: list[dict[str, torch.Tensor]] = []
        # How many steps there are is known once the rows are packed. The warm-up takes at most a third of them.
        settings = task.spec.training
        in_a_pass = math.ceil(len(self.train_dataset) / (settings.batch_size * settings.accumulation))
        steps = settings.max_steps or settings.epochs * in_a_pass
        args.warmup_steps = min(settings.warmup_steps, steps // 3)
        self.plan = {"rows": len(examples), "steps": steps} | ({"sharded": 1} if ranks.sharded() else {})

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        """A warm-up and half a cosine. Unlike the library's own, no step has a rate of zero."""
        warmup = int(self.args.warmup_steps)

        def share(step: int) -> float:
            if step < warmup:
                return (step + 1) / (warmup + 1)
            through = (step - warmup) / max(1, num_training_steps - warmup)
            return 0.5 + 0.5 * math.cos(math.pi * through)

        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer or self.optimizer, share)
        return self.lr_scheduler

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        self.step_batches.append(inputs)
        loss: torch.Tensor = super().training_step(model, inputs, num_items_in_batch)
        self._halt_unless_finite(self.state.global_step + 1, "loss", float(loss))
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        super().log(logs, start_time)
        if "grad_norm" in logs:
            self._halt_unless_finite(self.state.global_step, "gradient's norm", logs["grad_norm"])
            self.step_batches.clear()

    def store(self, folder: Path) -> None:
        """Write the adapter as it is now into the attempt's folder, under the name of `folder`."""
        weights = self.accelerator.get_state_dict(self.model_wrapped) if ranks.sharded() else None  # each rank gives its part
        if ranks.first():
            adapters.save(self.student, self.model, folder, weights)
            self.task.artifacts.upload(folder, f"{self.task.folder}/{folder.name}")

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        if ranks.first():
            checkpoints.make_room(self.task, Path(self.args.output_dir))
        super()._save_checkpoint(model, trial)

    def _halt_unless_finite(self, step: int, what: str, value: float) -> None:
        if math.isfinite(value):
            return
        ids = ", ".join(self.names[tokens] for batch in self.step_batches for tokens in _sequences(batch))
        self.task.log(f"rows of step {step}: {ids}; {_said(memory(self.args.device))}", level="error")
        raise Terminal("nan_loss", f"At step {step} the {what} was {value} (rows {ids:.300}).")


def _said(figures: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.3g}" for name, value in figures.items())


def _sequences(batch: dict[str, torch.Tensor]) -> Iterator[tuple[int, ...]]:
    """The rows in a batch that is padded, or (packed) one row after the other."""
    if "attention_mask" in batch:
        for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True):
            yield tuple(ids[mask.bool()].tolist())
    else:
        for ids in torch.split(batch["input_ids"][0], batch["cu_seq_lens_q"].diff().tolist()):
            yield tuple(ids.tolist())


def _max_length(task: Task, student: Student) -> int:
    return min(task.spec.training.max_length, student.context)
