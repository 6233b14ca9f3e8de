"""What the service wants from a training while it runs: signs of life, figures, checkpoints, and an end when it is time."""

import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils.tensorboard import SummaryWriter
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from reflux.task import Task
from services.gpu_trainer import checkpoints, ranks
from services.gpu_trainer.models import memory

BEST = "best.safetensors"
LIMIT = "limit"  # the run's time or money is spent: what was learnt is wanted, and nobody will go on


def losses(state: TrainerState) -> list[float]:
    """The mean loss of each step's learnt tokens, whichever attempt made the step."""
    return [entry["loss"] for entry in state.log_history if "loss" in entry]


def validation_losses(state: TrainerState) -> dict[int, float]:
    """By step."""
    return {entry["step"]: entry["eval_loss"] for entry in state.log_history if "eval_loss" in entry}


def best_step(state: TrainerState) -> int | None:
    """The step after which validation was best, if there was any."""
    validations = validation_losses(state)
    return min(validations, key=lambda step: validations[step], default=None)


class Watch(TrainerCallback):  # type: ignore[misc]
    """`stopped` says why the task was stopped, once the training has saved and ended for it."""

    def __init__(self, task: Task, plan: checkpoints.Plan, writer: SummaryWriter, checkpoint: Path | None) -> None:
        self.task = task
        self.plan = plan
        self.writer = writer
        self.stopped: str | None = None
        self.saved_step = checkpoints.step(checkpoint.name) if checkpoint else 0
        self.best: dict[str, torch.Tensor] = {}
        if checkpoint and (checkpoint / BEST).exists():
            self.best = load_file(checkpoint / BEST)
        self.gets_worse = False
        self.step_began = 0.0
        self.seconds: list[float] = []
        self.tokens = 0.0

    # Signs of life

    def on_epoch_begin(self, *_: Any, **__: Any) -> None:
        # Before the pass's loader draws from it
        self.random_state, self.pass_begins = _random_state(), True

    def on_step_begin(self, _args: Any, state: TrainerState, *_: Any, **__: Any) -> None:
        self.step_began = time.monotonic()
        if not self.pass_begins:
            self.random_state = _random_state()
        self.pass_begins = False
        self._is_alive(state)

    def on_substep_end(self, _args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """A stop does not wait for a step's other batches: the step is left out, and whoever goes on makes it as a whole."""
        self._is_alive(state)
        if stop := self._stop():
            _set_random_state(self.random_state)
            self._obey(stop, state, control)

    def on_prediction_step(self, _args: Any, state: TrainerState, *_: Any, **__: Any) -> None:
        self._is_alive(state)

    def _is_alive(self, state: TrainerState) -> None:
        self.task.progress(state.global_step, state.max_steps, "steps")

    # Ends

    def on_step_end(self, _args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.seconds.append(time.monotonic() - self.step_began)
        self._is_alive(state)
        if state.global_step == state.max_steps:
            control.should_save = False  # the adapter itself comes next
        else:
            self._obey(self._stop(), state, control)

    def on_evaluate(self, _args: Any, state: TrainerState, control: TrainerControl, model: Any, **_: Any) -> None:
        """Keep the best weights; after early_stop_patience validations that were no better, end."""
        best = best_step(state)
        assert best is not None
        self.gets_worse = sum(step > best for step in validation_losses(state)) >= self.task.spec.training.early_stop_patience
        if best == state.global_step:
            self.best = {name: _whole(parameter).to("cpu", copy=True) for name, parameter in _trained(model).items()}
        if self.gets_worse:
            self.task.log(f"stopped early at step {state.global_step}: validation was best at step {best}")
            control.should_training_stop, control.should_save, self.stopped = True, False, None
        elif state.global_step < state.max_steps:
            self._obey(self._stop(), state, control)

    def _stop(self) -> str | None:
        return ranks.by_first(lambda: self.task.stop)

    def _obey(self, stop: str | None, state: TrainerState, control: TrainerControl) -> None:
        if stop:
            self.stopped = stop
            control.should_training_stop = True
            control.should_save = self.stopped != LIMIT and state.global_step > self.saved_step

    def on_train_end(self, *_: Any, model: Any, **__: Any) -> None:
        if self.gets_worse:
            self.take_best(model)

    def take_best(self, model: Any) -> None:
        """Put back the weights with which validation was best."""
        for name, parameter in _trained(model).items():
            _put(parameter, self.best[name])

    # What others see

    def on_save(self, args: TrainingArguments, state: TrainerState, *_: Any, **__: Any) -> None:
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        ranks.wait()  # for each one's random state
        if ranks.first():
            if self.best:
                save_file(self.best, folder / BEST)
            checkpoints.save(self.task, folder, self.plan)
        self.saved_step = state.global_step

    def on_log(self, args: TrainingArguments, state: TrainerState, *_: Any, logs: dict[str, float], **__: Any) -> None:
        """Every log_steps steps: the means since the last time. The losses are in TensorBoard's files anyway."""
        step, every = state.global_step, self.task.spec.training.log_steps
        if "eval_loss" in logs:
            self.task.metrics(step, val_loss=logs["eval_loss"])
        if "loss" in logs and (step % every == 0 or step in {1, state.max_steps}):
            recent = losses(state)[-every:]
            a_step = sum(self.seconds) / len(self.seconds)
            speed = {
                "tokens_per_second": (logs["num_tokens"] - self.tokens) / sum(self.seconds),
                "step_seconds": a_step,
                "eta_seconds": a_step * (state.max_steps - step),
                **memory(args.device),
            }
            self.task.metrics(
                step,
                loss=sum(recent) / len(recent),
                learning_rate=logs["learning_rate"],
                grad_norm=logs["grad_norm"],
                **speed,
            )
            for name, value in speed.items():
                self.writer.add_scalar(f"train/{name}", value, step)
            self.tokens, self.seconds = logs["num_tokens"], []


def _trained(model: Any) -> dict[str, torch.nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def _whole(parameter: torch.nn.Parameter) -> torch.Tensor:
    """Put together from the parts that the ranks hold."""
    tensor = parameter.detach()
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _put(parameter: torch.nn.Parameter, whole: torch.Tensor) -> None:
    mine = parameter.data
    if isinstance(mine, DTensor):
        whole = distribute_tensor(whole.to(mine.device), mine.device_mesh, mine.placements)
    mine.copy_(whole)


def _random_state() -> tuple[torch.Tensor, list[torch.Tensor]]:
    """What dropout draws from."""
    return torch.get_rng_state(), torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []


def _set_random_state(state: tuple[torch.Tensor, list[torch.Tensor]]) -> None:
    torch.set_rng_state(state[0])
    if state[1]:
        torch.cuda.set_rng_state_all(state[1])
