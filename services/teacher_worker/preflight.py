"""Everything that can be checked before work is paid for: all of it, and all that is wrong is told at once."""

import os
import secrets
import shutil
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import httpx
from botocore.exceptions import BotoCoreError

from reflux import prices
from reflux.artifacts import Artifacts
from reflux.commands import Preflight
from reflux.errors import POLICIES, ErrorClass, RefluxError, Terminal
from reflux.events import PreflightPassed
from reflux.secret import secret
from reflux.spec import RunSpec, Teacher
from reflux.task import Task
from services.teacher_worker import ingest, job_data, prompts, student_memory, uploads
from services.teacher_worker.cloud import costs, machines, providers
from services.teacher_worker.teachers import CallFailed, bedrock, recorded, teacher_for

Workers = Callable[[], list[dict[str, Any]]]

CONNECTIVITY_PROMPT = "Generate a C struct for a TSN gate control list entry."
CONNECTIVITY_WAITS = (0.5, 1.0)  # seconds before the second and the third try
RECOMMENDED_GPUS = ("A100", "H100", "H200", "B200")
HUB_SECONDS = 5.0


@dataclass(frozen=True)
class Check:
    """One thing that was looked at. `hint` says what to do unless `status` is ok; `code` is one of reflux.errors."""

    name: str
    status: Literal["ok", "warning", "failed"]
    message: str
    hint: str = ""
    code: str = "preflight_failed"


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
    failed = [check for check in done if check.status == "failed"]
    if failed:
        raise terminal(failed)
    warnings = tuple(_told(check) for check in done if check.status == "warning")
    return PreflightPassed(key=task.command.key, seconds=time.monotonic() - began, warnings=warnings)


def checks(spec: RunSpec, artifacts: Artifacts, workers: Workers) -> Iterator[Check]:
    """Each check as it is made. `workers` gives the registrations; an empty list means that they are not known."""
    yield _writable("artifact store", artifacts)
    if spec.recipe == "distill":
        for source in spec.data.sources:
            yield _source(source.uri)
        yield from _prompts(spec)
        yield from _teacher(spec)
    if spec.recipe == "finetune":
        for uri in (spec.data.train, spec.data.validation):
            if uri:
                yield _rows(uri)
    for name, uri in (("output target", spec.export.output_uri), ("data target", spec.export.data_uri)):
        if uri:
            yield _target(name, uri)
    if spec.recipe == "job":
        yield from _job(spec, workers)
        return
    if spec.compute.kind != "local":
        yield _machine(spec)
        yield _student(spec, [{"name": "gpu_trainer@elsewhere"}])
        yield _hub_token(spec)
        return
    registered, unknown = _registered(workers)
    if unknown:
        yield unknown
    trainers = [w for w in registered if w["service"] == "gpu_trainer"]
    yield _student(spec, trainers)
    yield _hub_token(spec)
    if registered:
        yield from _trainers(spec, trainers)
        yield from _memory(spec, trainers)
        yield _compilers([w for w in registered if w["service"] == "evaluator"])
    yield _disk(spec, trainers)


def _machine(spec: RunSpec) -> Check:
    """What can be known of a machine before it is asked for."""
    try:
        providers.check(spec.compute.kind)
        compute, place = machines.settled(spec.compute), machines.settings()
    except RefluxError as error:
        return _failed("machine", error)
    price = costs.per_hour(compute.instance_type or "", compute.volume_gb)
    told = f"{compute.instance_type} in {compute.region}, " + (f"about ${price:g} an hour" if price else "price not known")
    if not place.api_url.startswith("https://"):
        hint = "Put TLS in front of the API before machines outside of a private network use it."
        return Check("machine", "warning", f"{told}; its key goes to {place.api_url} in the clear", hint)
    return Check("machine", "ok", told)


def _job(spec: RunSpec, workers: Workers) -> Iterator[Check]:
    for uri in job_data.places(spec.job):
        try:
            found = job_data.sizes(uri)
        except RefluxError as error:
            yield _failed(f"input {uri}", error)
        else:
            yield Check(f"input {uri}", "ok", f"{len(found)} files, {sum(found.values()) / 1e6:.1f} MB")
        if spec.compute.kind != "local" and uri.startswith("file://"):
            yield Check(f"road to {uri}", "warning", "a machine elsewhere has no such folder", "Put it into a bucket.")
    if spec.job.outputs_uri:
        yield _target("outputs of the job", spec.job.outputs_uri)
    registered, unknown = _registered(workers)
    if spec.compute.kind != "local":
        yield _machine(spec)
    elif unknown:
        yield unknown
    else:
        trainers = [w for w in registered if w["service"] == "gpu_trainer" and w["alive"]]
        yield from (Check("gpu_trainers", *found) for found in job_data.runners(spec.job, trainers))


def terminal(failed: list[Check]) -> Terminal:
    """One error out of the checks that failed."""
    only = failed[0] if len(failed) == 1 else None
    if only and POLICIES[only.code].error_class == ErrorClass.TERMINAL:
        return Terminal(only.code, f"{only.name}: {only.message}", only.hint)
    lines = "\n".join(f"- {_told(check)}" for check in failed)
    return Terminal("preflight_failed", f"Failed checks: {len(failed)}.\n{lines}", only.hint if only else "")


def _told(check: Check) -> str:
    return f"{check.name}: {check.message.rstrip('.')}. {check.hint}".strip()


def _failed(name: str, error: RefluxError) -> Check:
    return Check(name, "failed", error.message, error.hint, error.code)


def _writable(name: str, store: Artifacts) -> Check:
    path = f".reflux-probe-{secrets.token_hex(4)}"
    try:
        store.create(path, b"")
        store.delete(path)
    except RefluxError as error:
        return _failed(name, error)
    return Check(name, "ok", f"{store.url} can be written")


def _target(name: str, uri: str) -> Check:
    try:
        return _writable(name, Artifacts(uri))
    except RefluxError as error:
        return _failed(name, error)


def _source(uri: str) -> Check:
    name = f"source {uri}"
    try:
        store = ingest.open_source(uri)
        kinds = Counter(PurePosixPath(path).suffix.lower() in ingest.SUFFIXES for path, _ in (store.walk() if store else ()))
    except RefluxError as error:
        return _failed(name, error)
    if not kinds[True]:
        hint = POLICIES["empty_dataset"].hint
        what = f"{kinds.total()} files, none of them C or C++" if store is not None else "there is no such folder"
        return Check(name, "failed", what, hint, "empty_dataset")
    return Check(name, "ok", f"{kinds[True]} files of C or C++ among {kinds.total()}")


def _rows(uri: str) -> Check:
    name = f"rows {uri}"
    try:
        count = sum(1 for _ in uploads.examples(uri))
    except RefluxError as error:
        return _failed(name, error)
    return Check(name, "ok", f"{count} rows")


def _prompts(spec: RunSpec) -> Iterator[Check]:
    try:
        chosen = prompts.from_file(spec)
    except RefluxError as error:
        yield _failed("prompts", error)
        return
    if chosen is not None:
        yield Check("prompts", "ok", f"{len(chosen)} prompts")


def _teacher(spec: RunSpec) -> Iterator[Check]:
    teacher = spec.teacher
    if teacher.provider != "recorded":
        yield _credentials(teacher)
        yield _terms(teacher)
        yield _price(spec)
    elif teacher.answers_uri:
        yield _recorded(teacher.answers_uri)
        return
    yield _not_asked(teacher) if teacher.skip_check else _asked(spec)


def _not_asked(teacher: Teacher) -> Check:
    try:
        teacher_for(teacher)
    except RefluxError as error:
        return _failed("teacher", error)
    return Check("teacher", "warning", "not asked, as teacher.skip_check says")


def _asked(spec: RunSpec) -> Check:
    """One tiny call, with up to two more where that may help."""
    teacher = spec.teacher
    tiny = teacher.model_copy(update={"max_teacher_tokens": 256})
    trouble = None
    for wait in (*CONNECTIVITY_WAITS, None):
        try:
            client = teacher_for(teacher)
            with client.limiter.slot():
                reply = client.converse(tiny, spec.prompts.system, CONNECTIVITY_PROMPT)
            return Check("teacher", "ok", f"{teacher.model} answered with {reply.output_tokens} tokens")
        except RefluxError as error:
            return _failed("teacher", error)
        except CallFailed as error:
            trouble = error
            if wait is None or error.trouble == "refused":
                break
            time.sleep(wait)
    assert trouble is not None
    place = f"{teacher.model} at {teacher.endpoint_url or teacher.region}"
    if trouble.trouble == "refused" and teacher.provider == "recorded":
        return Check("teacher", "ok", "the recorded teacher is there")
    if trouble.trouble == "refused":
        hint = "Correct what the provider names, such as teacher.model, teacher.temperature or teacher.max_teacher_tokens."
        return Check("teacher", "failed", f"{place} refused the test prompt: {trouble.message}", hint, "invalid_spec")
    return Check("teacher", "failed", f"{place}: {trouble.message}", POLICIES[trouble.trouble].hint, trouble.trouble)


def _recorded(uri: str) -> Check:
    try:
        recording = recorded.read(uri)
    except RefluxError as error:
        return _failed("teacher", error)
    return Check("teacher", "ok", f"{len(recording)} prompts with answers in {uri}")


def _credentials(teacher: Teacher) -> Check:
    name = "credentials of the teacher"
    if teacher.provider == "openai":
        if secret("OPENAI_API_KEY"):
            return Check(name, "ok", "OPENAI_API_KEY is set")
        if teacher.endpoint_url:
            return Check(name, "ok", "OPENAI_API_KEY is not set: no key is sent")
        return Check(name, "failed", "OPENAI_API_KEY is not set", "Set it for the teacher workers.", "no_credentials")
    if secret("BEDROCK_API_KEY"):
        return Check(name, "ok", "BEDROCK_API_KEY is set")
    hint = POLICIES["no_credentials"].hint
    try:
        found = bedrock.open_session(teacher).get_credentials()
    except BotoCoreError as error:
        return Check(name, "failed", str(error), hint, "no_credentials")
    if found is None:
        return Check(name, "failed", "AWS credentials were not found", hint, "no_credentials")
    return Check(name, "ok", f"AWS credentials from {found.method}")


def _terms(teacher: Teacher) -> Check:
    name = "terms of the teacher"
    if teacher.terms_acknowledged:
        return Check(name, "ok", "acknowledged")
    hint = "Read them, then set teacher.terms_acknowledged: true."
    return Check(name, "warning", "the provider's terms may forbid training on its answers", hint)


def _price(spec: RunSpec) -> Check:
    name, teacher = "price of the teacher", spec.teacher
    given = teacher.input_usd_per_million is not None and teacher.output_usd_per_million is not None
    if given or prices.find(teacher.model):
        return Check(name, "ok", "known")
    hint = "Set teacher.input_usd_per_million and teacher.output_usd_per_million; 0 for a teacher of your own."
    if spec.limits.max_teacher_cost_usd is not None:
        message = f"that of {teacher.model} is not known, so limits.max_teacher_cost_usd could not be kept"
        return Check(name, "failed", message, hint, "invalid_spec")
    return Check(name, "warning", f"that of {teacher.model} is not known: its calls count as free", hint)


def _registered(workers: Workers) -> tuple[list[dict[str, Any]], Check | None]:
    try:
        return workers(), None
    except httpx.HTTPError as error:
        return [], Check("workers", "warning", f"their registrations could not be read: {error}")


def _student(spec: RunSpec, trainers: list[dict[str, Any]]) -> Check:
    model = spec.student.model
    if model.startswith("package:"):
        return _here_or_there(_package(model.removeprefix("package:")), trainers)
    folder = Path(model).expanduser()
    if model.startswith(("/", ".", "~")) or folder.is_dir():
        missing = None if (folder / "config.json").is_file() else f"{folder} has no config.json"
        return _here_or_there(missing, trainers)
    return _on_the_hub(model, spec.student.revision)


def _package(name: str) -> str | None:
    """What is missing of `DIST/path/in/it`, or None."""
    distribution, _, inside = name.partition("/")
    try:
        found = metadata.distribution(distribution).locate_file(inside)
    except metadata.PackageNotFoundError:
        return f"the package {distribution} is not installed"
    return None if Path(str(found)).is_file() else f"the package {distribution} has no file {inside}"


def _here_or_there(missing: str | None, trainers: list[dict[str, Any]]) -> Check:
    """A student on a disk can only be looked for on this machine; a trainer on another one may have it all the same."""
    if missing is None:
        return Check("student", "ok", "its files are there")
    hint = "Correct student.model, or put its files on the GPU worker."
    elsewhere = [w["name"] for w in trainers if "@" in w["name"] and not _is_here(w["name"])]
    if elsewhere:
        return Check("student", "warning", f"on this machine {missing}; {elsewhere[0]} will look for itself", hint)
    return Check("student", "failed", missing, hint, "model_not_found")


def _is_here(worker: str) -> bool:
    return worker.split("@", 1)[1].startswith(socket.gethostname())


def _hub() -> str:
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co")


def _on_the_hub(model: str, revision: str | None) -> Check:
    hub = _hub()
    token = secret("HF_TOKEN")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        url = f"{hub}/{model}/resolve/{revision or 'main'}/config.json"
        status = httpx.head(url, headers=headers, follow_redirects=True, timeout=HUB_SECONDS).status_code
    except httpx.HTTPError as error:
        message = f"{hub} can't be reached from here, so {model} was not looked for ({type(error).__name__})"
        return Check("student", "warning", message, "The GPU worker needs the road to the hub, or the model in its cache.")
    if status in (401, 403):
        return Check("student", "failed", f"{model} does not exist or is gated", "Set HF_TOKEN.", "model_not_found")
    if status == 404:
        at = f" at revision {revision}" if revision else ""
        return Check("student", "failed", f"the hub has no {model}{at}", "Correct student.model.", "model_not_found")
    if status >= 400:
        return Check("student", "warning", f"{hub} answered {status} for {model}", "Try again, or name a local folder.")
    return Check("student", "ok", f"{model} is on the hub")


def _hub_token(spec: RunSpec) -> Check:
    if secret("HF_TOKEN"):
        return Check("HF_TOKEN", "ok", "set")
    local = spec.student.model.startswith(("package:", "/", ".", "~"))
    if spec.export.hub_repo:
        message = f"not set: nothing can be pushed to {spec.export.hub_repo}"
        return Check("HF_TOKEN", "warning", message, "Set HF_TOKEN for the teacher workers.")
    if local:
        return Check("HF_TOKEN", "ok", "not needed")
    return Check("HF_TOKEN", "warning", "not set: gated models can't be loaded", "Set HF_TOKEN for the GPU worker.")


def _trainers(spec: RunSpec, trainers: list[dict[str, Any]]) -> Iterator[Check]:
    hint = POLICIES["gpu_missing"].hint
    if not trainers:
        yield Check("gpu_trainer", "failed", "no gpu_trainer was ever there", hint, "gpu_missing")
        return
    if not any(w["alive"] for w in trainers):
        yield Check("gpu_trainer", "warning", f"{trainers[0]['name']} is silent; the run will wait for it", hint)
    best = max((w["capabilities"] for w in trainers), key=lambda c: bool(c.get("cuda")))
    student = spec.student
    if not best.get("cuda"):
        if student.device == "cuda" or (student.method == "qlora" and student.device != "cpu"):
            why = "student.device is cuda" if student.device == "cuda" else "student.method is qlora"
            yield Check("GPU", "failed", f"{why}, but no gpu_trainer has CUDA", hint, "gpu_missing")
        else:
            asked = student.device == "cpu"
            yield Check("GPU", "ok" if asked else "warning", "none; training runs on the CPU, which only small students bear")
        return
    gpu = str(best.get("gpu"))
    if not any(name in gpu for name in RECOMMENDED_GPUS):
        yield Check("GPU", "warning", f"{gpu} is not the recommended one", f"Recommended: {' or '.join(RECOMMENDED_GPUS)}.")
    elif not (best.get("tf32") and best.get("cudnn")):
        yield Check("GPU", "warning", f"{gpu} has no TF32 or no cuDNN here", "Look at the torch build of the GPU worker.")
    else:
        yield Check("GPU", "ok", f"{gpu}, {best.get('gpu_memory_gb')} GB")


def _memory(spec: RunSpec, trainers: list[dict[str, Any]]) -> Iterator[Check]:
    best: dict[str, Any] = max((w["capabilities"] for w in trainers), key=lambda c: bool(c.get("cuda")), default={})
    if found := student_memory.verdict(spec, best, _hub()):
        yield Check("memory", *found, "gpu_out_of_memory")


def _compilers(evaluators: list[dict[str, Any]]) -> Check:
    hint = "Install gcc and g++ where the evaluators run."
    if not evaluators:
        return Check("evaluators", "warning", "no evaluator was ever there; the run will wait for one", "Start an evaluator.")
    without = [w["name"] for w in evaluators if not w["capabilities"].get("gcc")]
    if without:
        return Check("evaluators", "warning", f"no gcc at {', '.join(without)}: scoring is heuristic there", hint)
    return Check("evaluators", "ok", f"{len(evaluators)} with gcc")


def _disk(spec: RunSpec, trainers: list[dict[str, Any]]) -> Check:
    """The GPU worker's disk as it registered it; this machine's if none says."""
    free = {w["name"]: w["capabilities"]["disk_free_gb"] for w in trainers if w["capabilities"].get("disk_free_gb") is not None}
    free = free or {"this machine": shutil.disk_usage("/").free / 1e9}
    name, least = min(free.items(), key=lambda pair: float(pair[1]))
    if least < spec.limits.min_disk_gb:
        message = f"{least:.1f} GB are free at {name}, {spec.limits.min_disk_gb:g} GB are wanted"
        return Check("disk", "failed", message, POLICIES["disk_low"].hint, "disk_low")
    return Check("disk", "ok", f"{least:.1f} GB are free at {name}")
