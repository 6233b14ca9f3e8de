"""What the settings on a page are to become: a run of its own, or a fork of another."""

import secrets
from dataclasses import dataclass
from typing import Any, Protocol

from pydantic import BaseModel
from sqlalchemy.orm import Session

from reflux import prices
from reflux.run import Run
from reflux.spec import FieldProblem, RunSpec, check
from reflux.views import DryRun, GpuHours
from services.api import forks, gpu_hours, runs
from services.api.dashboard.sides import flattened

Given = dict[str, Any]
PRICES = ("input_usd_per_million", "output_usd_per_million")


class Beginning(Protocol):
    """`given` is what the form holds: sections of a spec, of which what is left out keeps its default."""

    def check(self, given: Given) -> tuple[RunSpec | None, list[FieldProblem]]: ...

    def estimate(self, session: Session, given: Given) -> tuple[DryRun, GpuHours | None]:
        """ProblemError for what can't be begun."""

    def start(self, session: Session, given: Given, by: str) -> str:
        """The new run's id. The caller commits."""


@dataclass
class Anew:
    """What was estimated is started once, however often it is asked for."""

    table: prices.Table
    once: str = ""

    def check(self, given: Given) -> tuple[RunSpec | None, list[FieldProblem]]:
        return check(given)

    def estimate(self, session: Session, given: Given) -> tuple[DryRun, GpuHours | None]:
        spec, self.once = runs.checked(given), secrets.token_urlsafe(16)
        return runs.dry_run(spec, self.table), gpu_hours.expected(session, spec)

    def start(self, session: Session, given: Given, by: str) -> str:
        return str(runs.create(session, runs.checked(given), by, self.once, self.table)[0].id)


@dataclass
class Fork:
    """Of `run`, after `epoch`. The form holds only what a fork may change."""

    run: Run
    epoch: int
    table: prices.Table

    def check(self, given: Given) -> tuple[RunSpec | None, list[FieldProblem]]:
        return forks.check(self.run, self.epoch, self.changes(given), self.table)

    def estimate(self, session: Session, given: Given) -> tuple[DryRun, GpuHours | None]:
        dry = forks.dry_run(self.run, self.epoch, self.changes(given), self.table)
        spec = RunSpec.model_validate(dry.spec)
        left = {"max_epochs": spec.refining.max_epochs - self.epoch}
        return dry, gpu_hours.expected(session, spec.model_copy(update={"refining": spec.refining.model_copy(update=left)}))

    def start(self, session: Session, given: Given, by: str) -> str:
        return str(forks.create(session, self.run.id, by, self.epoch, self.changes(given), self.table).id)

    def changes(self, given: Given) -> Given:
        """By section, as `forks.create` takes them: what differs from the run, what was left out as its default."""
        before, defaults = self.run.spec.model_dump(mode="json"), default_settings()
        changed: Given = {}
        for name in (*defaults, *(name for name in given if name not in defaults)):
            default = defaults.get(name)
            said = given.get(name, {} if isinstance(default, dict) else default)
            if isinstance(default, dict) and isinstance(said, dict):
                whole = {key: value for key, value in default.items() if key not in PRICES} | said  # prices: see forks.check
                differing = {key: value for key, value in whole.items() if value != before[name].get(key)}
                changed |= {name: differing} if differing else {}
            elif said != before.get(name):
                changed[name] = said
        return changed

    def differences(self, given: Given) -> list[str]:
        """`refining.max_epochs: 3 → 5`, for each setting; none for settings that are wrong."""
        spec, _ = self.check(given)
        if spec is None:
            return []
        before, after = flattened(self.run.spec.model_dump(mode="json")), flattened(spec.model_dump(mode="json"))
        names = [name for name in dict.fromkeys((*before, *after)) if before.get(name) != after.get(name)]
        return [f"{name}: {before.get(name) or 'nothing'} → {after.get(name) or 'nothing'}" for name in names]


def default_settings() -> Given:
    """What a fork may change, as a spec has it that says nothing. A preset has done its part when the run began."""
    found: Given = {}
    for name, info in RunSpec.model_fields.items():
        if name not in forks.FIXED and name != "preset":
            default = info.get_default(call_default_factory=True)
            found[name] = default.model_dump(mode="json") if isinstance(default, BaseModel) else default
    return found


def settings_of(spec: RunSpec, table: prices.Table) -> Given:
    """What makes this spec again: all that is no default, without the preset that filled it in and prices of the table."""
    given = spec.model_dump(mode="json", exclude_defaults=True, exclude={"preset"})
    if prices.priced(spec.teacher.model_copy(update=dict.fromkeys(PRICES)), table) == spec.teacher:
        teacher = {name: value for name, value in given.pop("teacher", {}).items() if name not in PRICES}
        given |= {"teacher": teacher} if teacher else {}
    return given


def fork_settings(run: Run, epoch: int, table: prices.Table) -> Given:
    """Those of `run` that a fork may change, with room for another epoch."""
    given = {name: value for name, value in settings_of(run.spec, table).items() if name not in forks.FIXED}
    given["name"] = run.spec.name
    if run.spec.refining.max_epochs <= epoch:
        given["refining"] = {**given.get("refining", {}), "max_epochs": epoch + 1}
    return given
