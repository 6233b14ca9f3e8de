"""What the processes of one training (group.py) ask each other. A process that trains alone is the first of one."""

import os
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar, cast

import torch.distributed as dist
from accelerate import PartialState
from accelerate.utils import DistributedType

Known = TypeVar("Known")

# The others wait while the first loads or uploads; whether it still does anything is watched from outside.
PATIENCE = timedelta(hours=12)


def join(*, cpu: bool) -> None:
    """Meet the others that `accelerate launch` has started."""
    PartialState(cpu=cpu, timeout=PATIENCE)


def count() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def first() -> bool:
    """Whether this process is the one that writes and speaks."""
    return not dist.is_initialized() or dist.get_rank() == 0


def sharded() -> bool:
    """Whether each process holds a part of the weights, by FSDP."""
    return count() > 1 and os.environ.get("ACCELERATE_USE_FSDP") == "true"


def by_first(do: Callable[[], Known]) -> Known:
    """What the first process gets; the others wait for it."""
    if count() == 1:
        return do()
    box = [do() if first() else None]
    dist.broadcast_object_list(box, src=0)
    return cast("Known", box[0])


def wait() -> None:
    """Until all have come here."""
    if count() > 1:
        dist.barrier()


def allow_sharding_on_cpu() -> None:
    """accelerate offers FSDP on GPUs alone. With gloo it works on a CPU too, which is how it is tested."""
    if sharded() and PartialState().distributed_type == DistributedType.MULTI_CPU:
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
