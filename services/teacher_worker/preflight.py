"""Everything that can be checked before work is paid for: all of it, and all that is wrong is told at once."""

import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import Any

import httpx

from reflux import machine_types
from reflux.artifacts import Artifacts
from reflux.commands import Preflight
from reflux.errors import POLICIES, ErrorClass, RefluxError, Terminal
from reflux.events import PreflightPassed
from reflux.spec import RunSpec
from reflux.task import Task
from services.teacher_worker import ingest, job_data, prompts, student_checks, teacher_checks, uploads
from services.teacher_worker.check import Check, failed
from services.teacher_worker.cloud import machines, sagemaker

Workers = Callable[[], list[dict[str, Any]]]


def preflight(task: Task) -> PreflightPassed:
    """Terminal with every failed check: the check's own code if it is the only one, else `preflight_failed`."""
    assert isinstance(task.command, Preflight)
    began = time.monotonic()
    done: list[Check] = []
    for check in checks(task.spec, task.artifacts, task.workers):
        task.check()
        done.append(check)
        task.log(f"{check.name}: {check.message}", "info" if check.status == "ok" else "warning")
        task.progress(len(done), len(done) + 1, "checks")
    if wrong := [check for check in done if check.status == "failed"]:
        raise terminal(wrong)
    warnings = tuple(_told(check) for check in done if check.status == "warning")
    return PreflightPassed(key=task.command.key, seconds=time.monotonic() - began, warnings=warnings)


def checks(spec: RunSpec, artifacts: Artifacts, workers: Workers) -> Iterator[Check]:
    """Each check as it is made. `workers` gives the registrations; an empty list means that they are not known."""
    yield _writable("artifact store", artifacts)
    if spec.recipe == "distill":
        for source in spec.data.sources:
            yield _source(source.uri)
        yield from _prompts(spec)
        yield from teacher_checks.teacher(spec)
    if spec.recipe == "finetune":
        for uri in (spec.data.train, spec.data.validation):
            if uri:
                yield _rows(uri)
    for name, uri in (("output target", spec.export.output_uri), ("data target", spec.export.data_uri)):
        if uri:
            yield _target(name, uri)
    if spec.recipe == "job":
        yield from _job(spec, artifacts, workers)
        return
    if spec.compute.kind != "local":
        yield _machine(spec, artifacts)
        yield student_checks.student(spec, [{"name": "gpu_trainer@elsewhere"}])
        yield student_checks.hub_token(spec)
        return
    registered, unknown = _registered(workers)
    if unknown:
        yield unknown
    trainers = [w for w in registered if w["service"] == "gpu_trainer"]
    yield student_checks.student(spec, trainers)
    yield student_checks.hub_token(spec)
    if registered:
        yield from student_checks.gpu(spec, trainers)
        yield from student_checks.memory(spec, trainers)
        yield _compilers([w for w in registered if w["service"] == "evaluator"])
    yield student_checks.disk(spec, trainers)


def _machine(spec: RunSpec, artifacts: Artifacts) -> Check:
    """What can be known of a machine before it is asked for."""
    try:
        compute, place = machines.settled(spec.compute), machines.settings()
        if compute.kind == "sagemaker":
            sagemaker.check(compute, place.artifacts_url or artifacts.url)
    except RefluxError as error:
        return failed("machine", error)
    price = machine_types.per_hour(compute.instance_type or "", compute.volume_gb)
    told = f"{compute.instance_type} in {compute.region}, " + (f"about ${price:g} an hour" if price else "price not known")
    if not place.api_url.startswith("https://"):
        hint = "Put TLS in front of the API before machines outside of a private network use it."
        return Check("machine", "warning", f"{told}; its key goes to {place.api_url} in the clear", hint)
    return Check("machine", "ok", told)


def _job(spec: RunSpec, artifacts: Artifacts, workers: Workers) -> Iterator[Check]:
    for uri in job_data.places(spec.job):
        try:
            found = job_data.sizes(uri)
        except RefluxError as error:
            yield failed(f"input {uri}", error)
        else:
            yield Check(f"input {uri}", "ok", f"{len(found)} files, {sum(found.values()) / 1e6:.1f} MB")
        if spec.compute.kind != "local" and uri.startswith("file://"):
            yield Check(f"road to {uri}", "warning", "a machine elsewhere has no such folder", "Put it into a bucket.")
    if spec.job.outputs_uri:
        yield _target("outputs of the job", spec.job.outputs_uri)
    registered, unknown = _registered(workers)
    if spec.compute.kind != "local":
        yield _machine(spec, artifacts)
    elif unknown:
        yield unknown
    else:
        trainers = [w for w in registered if w["service"] == "gpu_trainer" and w["alive"]]
        yield from (Check("gpu_trainers", *found) for found in job_data.runners(spec.job, trainers))


def terminal(wrong: list[Check]) -> Terminal:
    """One error out of the checks that failed."""
    only = wrong[0] if len(wrong) == 1 else None
    if only and POLICIES[only.code].error_class == ErrorClass.TERMINAL:
        return Terminal(only.code, f"{only.name}: {only.message}", only.hint)
    lines = "\n".join(f"- {_told(check)}" for check in wrong)
    return Terminal("preflight_failed", f"Failed checks: {len(wrong)}.\n{lines}", only.hint if only else "")


def _told(check: Check) -> str:
    return f"{check.name}: {check.message.rstrip('.')}. {check.hint}".strip()


def _writable(name: str, store: Artifacts) -> Check:
    path = f".reflux-probe-{secrets.token_hex(4)}"
    try:
        store.create(path, b"")
        store.delete(path)
    except RefluxError as error:
        return failed(name, error)
    return Check(name, "ok", f"{store.url} can be written")


def _target(name: str, uri: str) -> Check:
    try:
        return _writable(name, Artifacts(uri))
    except RefluxError as error:
        return failed(name, error)


def _source(uri: str) -> Check:
    name = f"source {uri}"
    try:
        store = ingest.open_source(uri)
        kinds = Counter(PurePosixPath(path).suffix.lower() in ingest.SUFFIXES for path, _ in (store.walk() if store else ()))
    except RefluxError as error:
        return failed(name, error)
    if not kinds[True]:
        return failed(name, ingest.without_sources(store, kinds.total()))
    return Check(name, "ok", f"{kinds[True]} files of C or C++ among {kinds.total()}")


def _rows(uri: str) -> Check:
    name = f"rows {uri}"
    try:
        count = sum(1 for _ in uploads.examples(uri))
    except RefluxError as error:
        return failed(name, error)
    return Check(name, "ok", f"{count} rows")


def _prompts(spec: RunSpec) -> Iterator[Check]:
    try:
        chosen = prompts.from_file(spec)
    except RefluxError as error:
        yield failed("prompts", error)
        return
    if chosen is not None:
        yield Check("prompts", "ok", f"{len(chosen)} prompts")


def _registered(workers: Workers) -> tuple[list[dict[str, Any]], Check | None]:
    try:
        return workers(), None
    except httpx.HTTPError as error:
        return [], Check("workers", "warning", f"their registrations could not be read: {error}")


def _compilers(evaluators: list[dict[str, Any]]) -> Check:
    hint = "Install gcc and g++ where the evaluators run."
    if not evaluators:
        return Check("evaluators", "warning", "no evaluator was ever there; the run will wait for one", "Start an evaluator.")
    without = [w["name"] for w in evaluators if not w["capabilities"].get("gcc")]
    if without:
        return Check("evaluators", "warning", f"no gcc at {', '.join(without)}: scoring is heuristic there", hint)
    return Check("evaluators", "ok", f"{len(evaluators)} with gcc")
