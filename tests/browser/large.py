"""A run of 50 epochs with 10^5 metric points and 10^4 answers, written straight into Postgres and the store."""

import json
from datetime import UTC, datetime, timedelta

from sqlalchemy import text

from reflux.artifacts import Artifacts
from reflux.commands import Chunk, Score
from reflux.events import AdapterTrained, ChunkScored, DatasetPrepared
from reflux.records import Answer, Verdict
from reflux.run import Run
from reflux.stages import Stage
from reflux.summary import EpochMetrics, Scores, Usage
from services.api.tables import EventRow, TaskRow
from services.evaluator.score import Attempt, the_scorer
from tests.browser import pupil
from tests.browser.world import SETS, World, spec
from tests.unit.stories import DATASET

EPOCHS, CHUNKS, CHUNK = 50, 8, 25
EPOCH = timedelta(minutes=30)

METRICS = """
    insert into metrics (run_id, epoch, name, step, value, at)
    select :run, 1 + i / 250, name, i % 250, case name when 'learning_rate' then 2e-4 else 0.5 + 1.0 / (1 + i) end, now()
    from generate_series(0, 12499) as i,
         unnest(array['loss', 'val_loss', 'learning_rate', 'grad_norm', 'tokens_per_second', 'step_seconds', 'memory_gb',
                      'peak_memory_gb']) as name
"""
LOGS = """
    insert into logs (run_id, task, service, level, line, at)
    select :run, 'train-' || i / 400, 'gpu_trainer', case when i % 100 = 0 then 'error' else 'info' end, 'line ' || i, now()
    from generate_series(1, 20000) as i
"""


def make(world: World) -> str:
    """It is in the training of its 50th epoch; 49 are finished, and each has 200 answers."""
    run_id = world.create(spec("large", refining={"max_epochs": 60}), admitted=False)
    began = datetime.now(UTC) - EPOCHS * EPOCH
    with world.session() as session:
        row = world.row(run_id)
        row = session.merge(row)
        run = Run.model_validate(row.state)
        epochs = tuple(_epoch(number) for number in range(1, EPOCHS + 1))
        trained = AdapterTrained(key="train-050", adapter_path="adapter", train_loss=0.5, steps=250, rows=170)
        dataset = DatasetPrepared.model_validate({"key": "prepare", **DATASET, **SETS})
        run = run.but(stage=Stage.REFINING, epoch=EPOCHS, epochs=epochs[:-1], trained=trained, dataset=dataset)
        row.state, row.status, row.stage, row.started_at = run.model_dump(mode="json"), run.status, run.stage.value, began
        seq = 1
        for epoch in range(1, EPOCHS + 1):
            start = began + epoch * EPOCH
            for kind in ("train", "generate"):
                session.add(_task(run_id, f"{kind}-{epoch:03d}", kind, epoch, {}, start, EPOCH / 3))
            for index, (chunk, path) in enumerate(_chunks(world.artifacts, run_id, epoch)):
                command = Score(stage=Stage.REFINING, epoch=epoch, chunk=chunk)
                at = start + EPOCH / 3 + index * timedelta(seconds=40)
                session.add(
                    _task(run_id, command.key, "score", epoch, command.model_dump(mode="json"), at, timedelta(seconds=20))
                )
                scored = ChunkScored(
                    key=command.key,
                    chunk=chunk.name,
                    path=path,
                    count=CHUNK,
                    poor=9,
                    compiling=12,
                    overall=150,
                    parts=(1, 1, 1, 1),
                )
                seq += 1
                session.add(
                    EventRow(
                        run_id=run_id, seq=seq, type="chunk_scored", status="refining", body=scored.model_dump(mode="json"), at=at
                    )
                )
        row.seq = seq
        row.created_at = began
        session.execute(text("update events set at = :at where run_id = :run and seq = 1"), {"at": began, "run": run_id})
        for query in (METRICS, LOGS):
            session.execute(text(query), {"run": run_id})
    return run_id


def _chunks(artifacts: Artifacts, run_id: str, epoch: int) -> list[tuple[Chunk, str]]:
    known = _verdicts()
    found = []
    for index in range(CHUNKS):
        folder = f"runs/{run_id}/pieces/generate-{epoch:03d}-student"
        chunk = Chunk(set="practice", index=index, path=f"{folder}/{index:04d}.jsonl", count=CHUNK)
        answers, verdicts = [], []
        for place in range(index * CHUNK, (index + 1) * CHUNK):
            answer, verdict = known[(place * 7 + epoch) % len(known)]
            name = {"prompt_id": f"prompt-{place:03d}"}
            answers.append(answer | name)
            verdicts.append(verdict | name)
        for path, rows in ((chunk.path, answers), (f"{folder}/verdicts-{index:04d}.jsonl", verdicts)):
            artifacts.put(path, "".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows).encode())
        found.append((chunk, f"{folder}/verdicts-{index:04d}.jsonl"))
    return found


def _verdicts() -> list[tuple[dict[str, object], dict[str, object]]]:
    found = []
    for asked in pupil.prompts()[:8]:
        for quality in range(pupil.GOOD + 1):
            words = pupil.written(asked, quality)
            verdict: Verdict = the_scorer().score(Attempt(words, asked.prompt, asked.domain, asked.id))
            answer = Answer(prompt_id=asked.id, prompt=asked.prompt, domain=asked.domain, text=words)
            found.append((answer.model_dump(mode="json"), verdict.model_dump(mode="json")))
    return found


def _epoch(number: int) -> EpochMetrics:
    score = 5 + 3 * number / EPOCHS
    means = Scores(count=200, overall=score, syntax=score, protocol=score, safety=score, style=score, compiling=0.6)
    return EpochMetrics(
        epoch=number, adapter_path=f"adapter-{number}", train_loss=1 / number, val_loss=1.1 / number, steps=250, rows=300,
        practice=means, dev=means, correction_rate=1 / number, requested=40, admitted=30, refused=10,
        usage=Usage(calls=40, cost_usd=0.3), seconds={"train": 600},
    )  # fmt: skip


def _task(run_id: str, key: str, kind: str, epoch: int, command: dict[str, object], at: datetime, took: timedelta) -> TaskRow:
    stage = "training" if kind == "train" else "refining"
    return TaskRow(
        run_id=run_id, key=key, kind=kind, stage=stage, epoch=epoch, command=command, status="done", attempt=1,
        accepted_attempt=1, failures=0, barren=0, rings=0, worker="w", due_at=at, claimed_at=at, ended_at=at + took,
    )  # fmt: skip
