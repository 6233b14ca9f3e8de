"""How much memory there is, and how much a training is going to need: said before it begins."""

import torch

from reflux.memory import Shape, need, what_fits
from reflux.task import Task
from services.gpu_trainer import ranks
from services.gpu_trainer.models import Student, memory_there_is


def report(task: Task, student: Student) -> None:
    """Log what is free, and the estimate; a warning that names what to change where it does not fit."""
    free, total = memory_there_is(student.device)
    where = torch.cuda.get_device_name() if student.device.type == "cuda" else "this machine"
    shape = Shape.of(student.model.config.to_dict())
    if shape is None:
        task.log(f"{free:.1f} of {total:.1f} GB of {where} are free; what the training needs can't be estimated")
        return
    bf16 = student.dtype == torch.bfloat16
    processes = ranks.count()
    needed = need(shape, task.spec, bf16=bf16, processes=processes)
    here = 0.0 if ranks.sharded() else needed.weights  # in memory already
    beside = " beside the model" if here else ""
    task.log(
        f"{free:.1f} of {total:.1f} GB of {where} are free{beside}; the training needs about {needed.total:.1f} GB: "
        f"weights {needed.weights:.1f}, adapter and optimizer {needed.training:.1f}, activations {needed.activations:.1f}"
    )
    if change := what_fits(shape, task.spec, bf16=bf16, there_gb=free + here, processes=processes):
        task.log(f"that may be too much, and is tried: if memory runs out, the batch is halved. {change}", level="warning")
