"""A training by several processes of this machine, its ranks: one a GPU, or each with some of a CPU's cores.

    child ── accelerate launch ──► rank 0, rank 1, …: each does train(), and they meet in every step
      ◄──── rank 0: reports, and how it ended ────┤          (DDP: each has the model; FSDP: each has a part of it)
      ◄──── any of them: what went wrong ─────────┘

The child gives up its own model while the ranks train. A rank that dies takes the others along; what counts is in the store.
"""

import fcntl
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import IO, Any

import torch
from torch.distributed import DistError

from reflux.errors import Retriable, Terminal
from reflux.events import AdapterTrained
from reflux.spec import RunSpec
from reflux.task import Task
from services.gpu_trainer import ranks
from services.gpu_trainer.child import Say, carry_out, die_with_parent, reporting
from services.gpu_trainer.machine import HINT, processes
from services.gpu_trainer.models import Bench, out_of_memory, prepare_torch
from services.gpu_trainer.pipe import described, outcome, pass_on, received
from services.gpu_trainer.train import smaller, train

POLL_SECONDS = 0.1
END_SECONDS = 30.0


def size(task: Task) -> int:
    """As many of the machine's processes as can share out the rows of a step evenly."""
    rows = task.spec.training.batch_size * task.spec.training.accumulation
    return max(number for number in range(1, processes() + 1) if rows % number == 0)


def train_together(task: Task, bench: Bench) -> AdapterTrained:
    """What train() does, by as many processes as size() says. Retriable when one of them dies."""
    bench.forget()
    number = size(task)
    if number < processes():
        task.log(f"{number} of {processes()} processes train: a step's rows can't be shared out among more", level="warning")
    rows = task.spec.training.batch_size * task.spec.training.accumulation
    batch_size = max(each for each in range(1, task.spec.training.batch_size + 1) if rows % (each * number) == 0)
    while True:
        message = _run(task, _with_batch(task.spec, batch_size, rows), number)
        if "too_large" not in message:
            break
        batch_size = smaller(task, batch_size, rows // number, message["too_large"])
    event = outcome(message)
    assert isinstance(event, AdapterTrained)
    return event


def _with_batch(spec: RunSpec, batch_size: int, rows: int) -> RunSpec:
    training = spec.training.model_copy(update={"batch_size": batch_size, "accumulation": rows // batch_size})
    return spec.model_copy(update={"training": training})


def _run(task: Task, spec: RunSpec, number: int) -> dict[str, Any]:
    """Let the ranks carry out the command with these settings; the first word about its end."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as order:
        json.dump(described(task) | {"spec": spec.model_dump(mode="json")}, order)
        order.flush()
        command = [sys.executable, "-m", "accelerate.commands.launch", *_options(spec, number), order.name]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=_environment(number), start_new_session=True
        ) as process:
            assert process.stdin
            assert process.stdout
            heard: queue.Queue[dict[str, Any]] = queue.Queue()
            threading.Thread(target=_hear, args=(process.stdout, heard), daemon=True).start()
            try:
                return _until_the_end(task, process.stdin, heard)
            finally:
                try:
                    process.wait(END_SECONDS)
                except subprocess.TimeoutExpired:
                    process.kill()  # and the kernel the ranks


def _options(spec: RunSpec, number: int) -> list[str]:
    options = ["--num_processes", str(number), "--num_machines", "1", "--main_process_port", "0"]
    options += ["--mixed_precision", "no", "--dynamo_backend", "no"]  # the trainer decides
    if spec.training.sharding == "fsdp":
        options += ["--use_fsdp", "--fsdp_version", "2", "--fsdp_auto_wrap_policy", "TRANSFORMER_BASED_WRAP"]
        options += ["--fsdp_state_dict_type", "FULL_STATE_DICT", "--fsdp_reshard_after_forward", "true"]
        whole = spec.student.quantization == "nf4"  # what is quantized, each rank reads by itself
        options += ["--fsdp_cpu_ram_efficient_loading", "false" if whole else "true"]
    else:
        options += ["--multi_gpu"]  # on a CPU too: it starts processes that meet
    return [*options, "--module", "services.gpu_trainer.group"]


def _environment(number: int) -> dict[str, str]:
    gpus = os.environ.get("REFLUX_VISIBLE_GPUS") or ",".join(map(str, range(number)))
    threads = max(1, len(os.sched_getaffinity(0)) // number)
    return {"OMP_NUM_THREADS": str(threads)} | os.environ | {"CUDA_VISIBLE_DEVICES": gpus}


def _hear(lines: IO[str], heard: "queue.Queue[dict[str, Any]]") -> None:
    for line in lines:
        if line.startswith("{"):  # else a library's
            heard.put(json.loads(line))
    heard.put({"ended": True})


def _until_the_end(task: Task, stdin: IO[str], heard: "queue.Queue[dict[str, Any]]") -> dict[str, Any]:
    told = False
    while True:
        if task.stop and not told:
            stdin.write(json.dumps({"stop": task.stop}) + "\n")
            stdin.flush()
            told = True
        try:
            message = heard.get(timeout=POLL_SECONDS)
        except queue.Empty:
            continue
        if "ended" in message:
            raise Retriable("worker_lost", "One of the processes that train together died, and the others ended with it.")
        if "report" not in message:
            return message
        pass_on(task, message["report"])


# A rank's side


def main() -> None:
    die_with_parent()
    order = Path(sys.argv[1])
    say = _say(order)
    task = received(json.loads(order.read_text()))
    first = os.environ["RANK"] == "0"
    prepare_torch()
    with ExitStack() as stack:
        if first:
            threading.Thread(target=_listen, args=(task,), daemon=True).start()
            stack.enter_context(reporting(task, say))
        ending = carry_out(task, Bench(), partial(_train, say))
    if "failure" in ending and not first:
        say({"report": task.drain() | {"progress": None, "metrics": []}})
    if "failure" in ending or first:
        say(ending)
    # At once: the others may wait for this one in vain.
    os._exit("failure" in ending)


def _say(order: Path) -> Say:
    # What libraries print must not get between the messages, nor what the other ranks say.
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def say(message: dict[str, Any]) -> None:
        with order.open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            out.write(json.dumps(message) + "\n")

    return say


def _listen(task: Task) -> None:
    for line in sys.stdin:
        task.stop = json.loads(line)["stop"]
    os._exit(1)  # the child is gone, and with this rank the others go


def _train(say: Say, task: Task, bench: Bench) -> AdapterTrained:
    cpu = task.spec.student.device == "cpu" or not torch.cuda.is_available()
    together = int(os.environ["WORLD_SIZE"])
    if not cpu and torch.cuda.device_count() < together:
        seen = f"this worker sees {torch.cuda.device_count()} GPUs"
        raise Terminal("gpu_missing", f"{together} processes are to train together, and {seen}.", HINT)
    try:
        ranks.join(cpu=cpu)
        return train(task, bench)
    except RuntimeError as error:
        if out_of_memory(error):
            say({"too_large": str(error).split("\n")[0]})
            os._exit(1)
        if isinstance(error, DistError) or "gloo" in str(error):
            raise Retriable("worker_lost", f"A process lost the others: {str(error).splitlines()[0]}") from error
        raise


if __name__ == "__main__":
    main()
