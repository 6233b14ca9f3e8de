"""Runs and facts for the tests of the loop. A `Story` is one run, told fact by fact."""

from typing import Any

from reflux import events
from reflux.commands import (
    Chunk,
    Command,
    Compare,
    Correct,
    Deliver,
    Generate,
    Judge,
    Prepare,
    Provision,
    Review,
    RunJob,
    Score,
    Teach,
    Train,
)
from reflux.errors import failure
from reflux.events import ANSWERS, Event, EventAdapter, RunAdmitted, TaskFailed, TaskStopped
from reflux.loop import decide
from reflux.run import Run
from reflux.spec import RunSpec, check
from reflux.stages import Stage
from reflux.summary import Comparison, EpochMetrics, Scores, Usage

PRICE = Usage(calls=1, input_tokens=100, output_tokens=50, cost_usd=0.25)

DATASET = {
    "train_path": "train.jsonl",
    "val_path": "val.jsonl",
    "prompts_path": "prompts.jsonl",
    "files": 3,
    "train": 9,
    "val": 1,
    "practice": 4,
    "dev": 2,
    "test": 2,
}


def spec(**sections: Any) -> RunSpec:
    """The smallest spec that every recipe takes, changed by section: `spec(refining={"max_epochs": 2})`."""
    smallest = {"data": {"sources": [{"uri": "file:///src"}], "train": "rows.jsonl"}, "job": {"command": ["train.sh"]}}
    made, problems = check(smallest | sections)
    assert made is not None, problems
    return made


def chunk(index: int = 0, prompt_set: str = "practice", model: str = "student", count: int = 2) -> Chunk:
    path = f"answers/{model}-{prompt_set}-{index:04d}.jsonl"
    return Chunk.model_validate({"set": prompt_set, "index": index, "model": model, "path": path, "count": count})


def answer(command: Command, **facts: Any) -> Event:
    """What a worker reports when it has done `command` well; `facts` say what was different."""
    kind = command.kind
    made = {"type": ANSWERS[kind].model_fields["type"].default, "key": command.key, **_well_done(command), **facts}
    return EventAdapter.validate_python(made)


def _well_done(command: Command) -> dict[str, Any]:
    path = f"done/{command.key}"
    match command:
        case Provision():
            return {"resource_id": "i-1"}
        case Prepare():
            return DATASET
        case Teach(start=start, stop=stop):
            return {"path": path, "answered": stop - start, "failed": 0, "usage": PRICE}
        case Train():
            return {"adapter_path": path, "train_loss": 1.0, "val_loss": 1.5, "steps": 10, "rows": 9}
        case RunJob():
            return {"outputs_path": path}
        case Generate(sets=sets, model=model):
            return {"chunks": tuple(chunk(0, prompt_set, model) for prompt_set in sets), "tokens": 64}
        case Score(chunk=piece):
            return scores(piece, 9.0)
        case Correct():
            return {"path": path, "requested": 1, "answered": 1, "usage": PRICE}
        case Judge() | Review():
            return {"path": path, "admitted": 1, "refused": 0}
        case Compare():
            return {
                "comparison": Comparison(prompts=2, samples=3, base=Scores(), best=Scores(), difference=1.0, low=0.5, high=1.5)
            }
        case Deliver():
            return {"targets": ()}
    return {"path": path, "files": 4} if command.kind == "export_model" else {"path": path}


def scores(piece: Chunk, mean: float, poor: int = 0) -> dict[str, Any]:
    """The facts of a ChunkScored of which all answers score `mean`."""
    total = mean * piece.count
    return {
        "chunk": piece.name,
        "path": f"verdicts/{piece.name}.jsonl",
        "count": piece.count,
        "poor": poor,
        "compiling": piece.count - poor,
        "overall": total,
        "parts": (total, total, total, total),
    }


def epoch(number: int, score: float = 5.0, rate: float = 0.5, dev: float | None = None, count: int = 10) -> EpochMetrics:
    """A finished epoch with this mean score and correction rate on the practice prompts."""
    return EpochMetrics(
        epoch=number,
        adapter_path=f"adapter-{number}",
        train_loss=1.0,
        steps=10,
        rows=9,
        practice=Scores(count=count, overall=score),
        dev=None if dev is None else Scores(count=count, overall=dev),
        correction_rate=rate,
    )


class Story:
    """A run from its beginning. Every telling method gives the keys of the commands that followed."""

    def __init__(self, **sections: Any) -> None:
        self.run = Run(id="r1", spec=spec(**sections))

    def tell(self, *facts: Event) -> list[str]:
        given: list[str] = []
        for fact in facts:
            self.run, commands = decide(self.run, fact)
            given += [command.key for command in commands]
        return given

    def done(self, *keys: str, **facts: Any) -> list[str]:
        return self.tell(*(answer(self.run.open[key], **facts) for key in keys))

    def scored(self, key: str, mean: float, poor: int = 0) -> list[str]:
        command = self.run.open[key]
        assert isinstance(command, Score)
        return self.done(key, **scores(command.chunk, mean, poor))

    def failed(self, key: str, code: str = "internal") -> list[str]:
        return self.tell(TaskFailed(key=key, failure=failure(code, f"{key} went wrong")))

    def stopped(self, *keys: str) -> list[str]:
        return self.tell(*(TaskStopped(key=key) for key in keys))

    def generated(self, key: str, *chunks: Chunk) -> list[str]:
        """Say of each of `chunks` that it is there; the Generate goes on."""
        return self.tell(*(events.ChunkGenerated(key=key, chunk=piece) for piece in chunks))

    def until(self, stage: Stage, epoch: int | None = None) -> "Story":
        """Do whatever is open, in the order in which it was given, until the run enters `stage`."""
        if self.run.stage == Stage.QUEUED != stage:
            self.tell(RunAdmitted())
        while self.run.stage != stage or epoch not in (None, self.run.epoch):
            assert self.run.open, f"the run rests in {self.run.stage}, epoch {self.run.epoch}, on its way to {stage}"
            self.done(next(iter(self.run.open)))
        return self

    @property
    def open(self) -> list[str]:
        return sorted(self.run.open)
