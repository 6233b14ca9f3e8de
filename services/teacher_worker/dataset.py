"""From source files or uploaded rows to train.jsonl, val.jsonl and prompts.jsonl.

The same input gives the same bytes. Everything made of one function, and of its near-duplicates, is one family, and a
family is on one side of every split.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.random import RandomState
from pydantic import BaseModel

from reflux.commands import Prepare
from reflux.errors import Terminal
from reflux.events import DatasetPrepared
from reflux.records import Example, Prompt, PromptSet
from reflux.spec import RunSpec
from reflux.task import Task
from services.teacher_worker import examples, job_data, prompts, uploads
from services.teacher_worker.families import TOKEN, Places, tokens
from services.teacher_worker.ingest import Ingest
from services.teacher_worker.spool import FUNCTION, HELD_OUT, VALIDATION, Spool, Table

MOST_HELD_OUT = 0.2  # of the families, where dev and test prompts are made from the source itself


@dataclass
class Made:
    """A dataset in a folder: train.jsonl, val.jsonl, prompts.jsonl, dataset.json, and what they hold."""

    folder: Path
    files: int = 0
    train: int = 0
    val: int = 0
    prompts: dict[PromptSet, int] = field(default_factory=dict)
    practice_characters: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def prepare(task: Task) -> DatasetPrepared:
    """Make the run's dataset under the attempt's folder."""
    assert isinstance(task.command, Prepare)
    if task.spec.recipe == "job":
        return job_data.prepare(task)
    began = time.monotonic()
    with TemporaryDirectory(prefix="reflux-prepare-") as scratch:
        made = make(task.spec, Path(scratch), task)
        task.check()
        task.artifacts.upload(made.folder, task.folder)
    return DatasetPrepared(
        key=task.command.key,
        seconds=time.monotonic() - began,
        warnings=tuple(made.warnings),
        train_path=f"{task.folder}/train.jsonl",
        val_path=f"{task.folder}/val.jsonl",
        prompts_path=f"{task.folder}/prompts.jsonl",
        files=made.files,
        train=made.train,
        val=made.val,
        practice=made.prompts["practice"],
        dev=made.prompts["dev"],
        test=made.prompts["test"],
        practice_characters=made.practice_characters,
        skipped=made.skipped,
    )


def make(spec: RunSpec, scratch: Path, task: Task) -> Made:
    """Make the dataset of `spec` in the folder `dataset` below `scratch`. `task` hears of progress and may stop it."""
    made = Made(scratch / "dataset")
    made.folder.mkdir()
    chosen = prompts.from_file(spec)
    with Spool(scratch, spec.data.near_duplicate_threshold) as spool:
        if spec.recipe == "finetune":
            _spool_uploads(spec, spool, made, task)
        else:
            _spool_sources(spec, spool, made, task, prompts.names_asked_for(chosen or ()))
        task.log(f"{len(spool)} examples from {made.files} files; left out: {made.skipped or 'nothing'}")
        _write(spec, spool, made, task, chosen)
    return made


def _spool_sources(spec: RunSpec, spool: Spool, made: Made, task: Task, asked_for: frozenset[str]) -> None:
    ingest = Ingest(spec.data, task.check)
    for file in ingest.files():
        found = examples.examples(file, spec.prompts.system, spec.seed)
        if not found:
            ingest.skipped["too_short"] += 1
            continue
        made.files += 1
        for example, name in found:
            kind = FUNCTION if name else 0
            spool.add(example, tokens(example.messages[-1].content), kind | (HELD_OUT if name in asked_for else 0))
        if ingest.seen % 20 == 0:
            task.progress(ingest.seen, ingest.total, "files")
    task.progress(ingest.seen, ingest.total, "files")
    made.skipped = {reason: count for reason, count in sorted(ingest.skipped.items()) if count}
    if not len(spool):
        raise Terminal(
            "empty_dataset",
            f"No function and no file worth completing was found. Looked at: {'; '.join(ingest.places)}."
            + (f" Left out: {_listed(made.skipped)}." if made.skipped else ""),
        )


def _spool_uploads(spec: RunSpec, spool: Spool, made: Made, task: Task) -> None:
    """Validation rows first: a training row that repeats one of them is a duplicate, and goes."""
    for uri, flags in ((spec.data.validation, VALIDATION), (spec.data.train, 0)):
        if uri is None:
            continue
        made.files += 1
        for example in uploads.examples(uri):
            task.check()
            spool.add(example, TOKEN.findall("\n".join(m.content for m in example.messages)), flags)
    task.progress(made.files, made.files, "files")


def _write(spec: RunSpec, spool: Spool, made: Made, task: Task, chosen: list[Prompt] | None) -> None:
    table = spool.table()
    task.check()
    random = RandomState(spec.seed)
    functions = table.flagged(FUNCTION)
    from_functions = chosen is None and spec.recipe == "distill"
    tested = _tested_families(spec, functions.distinct(), random) if from_functions else {}
    held = np.unique(np.concatenate([table.flagged(HELD_OUT).families, *tested.values()]))

    is_left = ~table.within(held)
    if spec.data.validation is not None and spec.recipe == "finetune":
        is_val = table.flags & VALIDATION > 0
    else:
        validation = _validation_families(table.families[is_left], spec.data.validation_share, random)
        is_val = table.within(validation)
    train, val = table.only(is_left & ~is_val), table.only(is_left & is_val)
    if not len(train):
        raise Terminal("empty_dataset", f"None of {len(table)} examples is left to train on: dev and test prompts ask for all")

    if from_functions:
        trained = functions.only(functions.within(train.families)).distinct()
        practised = random.permutation(trained)[: spec.prompts.practice]
        chosen = _prompts_of_functions(spool, functions, {"practice": practised, **tested})
    chosen = chosen or []
    made.practice_characters = sum(len(prompt.text) for prompt in chosen if prompt.set == "practice")
    made.train = _write_rows(made.folder / "train.jsonl", spool.read(random.permutation(train.rows)))
    made.val = _write_rows(made.folder / "val.jsonl", spool.read(random.permutation(val.rows)))
    _write_rows(made.folder / "prompts.jsonl", chosen)
    made.prompts = {name: sum(prompt.set == name for prompt in chosen) for name in prompts.SETS}
    made.warnings += _warnings(spec, made, chosen)
    _write_rows(made.folder / "dataset.json", [_statistics(spool, made, table, held)])


def _tested_families(spec: RunSpec, families: Places, random: RandomState) -> dict[PromptSet, Places]:
    """Families for the dev and the test prompts: as many as wanted, but never more than a fifth of all."""
    wanted = prompts.wanted_numbers(spec)
    share = min(1.0, MOST_HELD_OUT * len(families) / max(1, wanted["dev"] + wanted["test"]))
    dev, test = int(wanted["dev"] * share), int(wanted["test"] * share)
    order = random.permutation(families)
    return {"dev": order[:dev], "test": order[dev : dev + test]}


def _validation_families(families: Places, share: float, random: RandomState) -> Places:
    """Families that together hold about `share` of the rows; at least one if there are two and a share is wanted."""
    counts = np.bincount(families)
    distinct = np.flatnonzero(counts)
    sizes = counts[distinct]
    wanted = max(round(share * len(families)), 1 if share and len(distinct) > 1 else 0)
    order = random.permutation(len(distinct))
    taken, total = [], 0
    for i in order:
        if total >= wanted:
            break
        if total + sizes[i] <= max(1.5 * wanted, 1):
            taken.append(distinct[i])
            total += sizes[i]
    if not taken and wanted:
        taken = [distinct[np.argmin(sizes)]]
    return np.array(taken, dtype=np.uint32)


def _prompts_of_functions(spool: Spool, functions: Table, chosen: dict[PromptSet, Places]) -> list[Prompt]:
    """One prompt for each of the families chosen: the instruction of its first function."""
    asked = functions.only(functions.within(np.concatenate(list(chosen.values()))))
    families, places = np.unique(asked.families, return_index=True)
    return [
        _prompt(example, name)
        for name, numbers in chosen.items()
        for example in spool.read(asked.rows[places[np.searchsorted(families, numbers)]])
    ]


def _prompt(example: Example, name: PromptSet) -> Prompt:
    return Prompt(id=example.id, text=example.messages[1].content, domain=example.domain, set=name, family=example.family)


def _write_rows(path: Path, rows: Iterable[BaseModel]) -> int:
    count = 0
    with path.open("w", encoding="utf-8", newline="\n") as out:
        for row in rows:
            out.write(row.model_dump_json() + "\n")
            count += 1
    return count


class Statistics(BaseModel):
    """What dataset.json says. `lengths` counts answers by the power of two that their characters stay under."""

    files: int
    skipped: dict[str, int]
    examples: int
    duplicates: int
    families: int
    families_held_out: int
    train: int
    val: int
    prompts: dict[PromptSet, int]
    domains: dict[str, int]
    lengths: dict[int, int]


def _statistics(spool: Spool, made: Made, table: Table, held: Places) -> Statistics:
    return Statistics(
        files=made.files,
        skipped=made.skipped,
        examples=len(spool),
        duplicates=len(spool) - len(table),
        families=len(table.distinct()),
        families_held_out=len(held),
        train=made.train,
        val=made.val,
        prompts=made.prompts,
        domains=dict(sorted(spool.domains.items())),
        lengths=dict(sorted(spool.lengths.items())),
    )


def _warnings(spec: RunSpec, made: Made, chosen: list[Prompt]) -> list[str]:
    found = []
    if spec.recipe == "distill":
        wanted = prompts.wanted_numbers(spec)
        short = [f"{made.prompts[name]} of {wanted[name]} {name}" for name in prompts.SETS if made.prompts[name] < wanted[name]]
        if short:
            found.append(f"Fewer prompts than wanted: {', '.join(short)}")
    if shared := prompts.shared_families(chosen):
        found.append(
            f"Prompts of one family stand in several sets, so that what is measured was practised: {', '.join(shared[:5])}"
        )
    return found


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in counts.items())
