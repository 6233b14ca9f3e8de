"""What the service wants from a training while it runs: signs of life, figures, checkpoints, and an end when it is time."""

import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from reflux.task import Task
from services.gpu_trainer import checkpoints
from services.gpu_trainer.models import gpu_memory

BEST = "best.safetensors"


def losses(state: TrainerState) -> list[float]:
    """The mean loss of each step's learnt tokens, whichever attempt made the step."""
    return [entry["loss"] for entry in state.log_history if "loss" in entry]


def validation_losses(state: TrainerState) -> dict[int, float]:
    """By step."""
    return {entry["step"]: entry["eval_loss"] for entry in state.log_history if "eval_loss" in entry}


class Watch(TrainerCallback):  # type: ignore[misc]
    """`stopped` says why the task was stopped, once the training has saved and ended for it."""

    def __init__(self, task: Task, plan: checkpoints.Plan, checkpoint: Path | None) -> None:
        self.task = task
        self.plan = plan
        self.stopped: str | None = None
        self.best: dict[str, torch.Tensor] = {}
        if checkpoint and (checkpoint / BEST).exists():
            self.best = load_file(checkpoint / BEST)
        self.gets_worse = False
        self.step_began = 0.0
        self.seconds = 0.0
        self.tokens = 0.0

    # Signs of life

    def on_step_begin(self, _args: Any, state: TrainerState, *_: Any, **__: Any) -> None:
        self.step_began = time.monotonic()
        self._is_alive(state)

    def on_substep_end(self, _args: Any, state: TrainerState, *_: Any, **__: Any) -> None:
        self._is_alive(state)

    def on_prediction_step(self, _args: Any, state: TrainerState, *_: Any, **__: Any) -> None:
        self._is_alive(state)

    def _is_alive(self, state: TrainerState) -> None:
        self.task.progress(state.global_step, state.max_steps, "steps")

    # Ends

    def on_step_end(self, _args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.seconds += time.monotonic() - self.step_began
        self._is_alive(state)
        if state.global_step == state.max_steps:
            control.should_save = False  # the adapter itself comes next
        else:
            self._obey(control)

    def on_evaluate(self, _args: Any, state: TrainerState, control: TrainerControl, model: Any, **_: Any) -> None:
        """Keep the best weights; after early_stop_patience validations that were no better, end."""
        validations = validation_losses(state)
        best = min(validations, key=lambda step: validations[step])
        self.gets_worse = sum(step > best for step in validations) >= self.task.spec.training.early_stop_patience
        if best == state.global_step:
            self.best = {name: parameter.detach().to("cpu", copy=True) for name, parameter in _trained(model).items()}
        if self.gets_worse:
            self.task.log(f"stopped early at step {state.global_step}: validation was best at step {best}")
            control.should_training_stop, control.should_save, self.stopped = True, False, None
        elif state.global_step < state.max_steps:
            self._obey(control)

    def _obey(self, control: TrainerControl) -> None:
        if self.task.stop:
            self.stopped = self.task.stop
            control.should_training_stop = control.should_save = True

    def on_train_end(self, *_: Any, model: Any, **__: Any) -> None:
        if self.gets_worse:
            for name, parameter in _trained(model).items():
                parameter.data.copy_(self.best[name])

    # What others see

    def on_save(self, args: TrainingArguments, state: TrainerState, *_: Any, **__: Any) -> None:
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if self.best:
            save_file(self.best, folder / BEST)
        checkpoints.save(self.task, folder, self.plan)

    def on_log(self, args: TrainingArguments, state: TrainerState, *_: Any, logs: dict[str, float], **__: Any) -> None:
        """Every log_steps steps: the means since the last time."""
        step, every = state.global_step, self.task.spec.training.log_steps
        if "eval_loss" in logs:
            self.task.metrics(step, val_loss=logs["eval_loss"])
        if "loss" in logs and (step % every == 0 or step in {1, state.max_steps}):
            recent = losses(state)[-every:]
            self.task.metrics(
                step,
                loss=sum(recent) / len(recent),
                learning_rate=logs["learning_rate"],
                grad_norm=logs["grad_norm"],
                tokens_per_second=(logs["num_tokens"] - self.tokens) / self.seconds,
                **gpu_memory(args.device),
            )
            self.tokens, self.seconds = logs["num_tokens"], 0.0


def _trained(model: Any) -> dict[str, torch.nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
