"""The GPU hours of a run that was not started yet: by what runs of the same student told, else by the trainers' devices."""

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from reflux import machine_types
from reflux.gpu_hours import DEVICES, ROW_TOKENS, ROWS, UNSURE_MEASURED, Speeds, by_data_sheet, hours, tokens
from reflux.spec import RunSpec
from reflux.views import GpuHours
from services.api import catalogue
from services.api.tables import WorkerRow

LOOKED_AT = 200  # of the newest runs

# The middle of what the newest runs of a student by a method told of their speed, and how many runs those were.
TOLD = text("""
    with alike as (
        select id from (select id, state -> 'spec' -> 'student' as student from runs order by created_at desc limit :looked_at) r
        where student ->> 'model' = :model and student ->> 'method' = :method
    )
    select name, percentile_cont(0.5) within group (order by value), count(distinct run_id)
    from alike join metrics on run_id = alike.id
    where name in ('tokens_per_second', 'generated_tokens_per_second') and value > 0 and value < 'infinity'
    group by name
""")


def expected(session: Session, spec: RunSpec) -> GpuHours | None:
    """None for a job, and where neither the student nor the device is known."""
    if spec.recipe == "job":
        return None
    found = _told(session, spec) or _calculated(session, spec)
    if found is None:
        return None
    speeds, basis = found
    likely, low, high = hours(spec, speeds)
    wanted = tokens(spec)
    rows = f", with {ROWS} rows of {ROW_TOKENS} tokens assumed" if wanted.assumed else f", rows of {ROW_TOKENS} tokens assumed"
    what = f"{wanted.trained:,.0f} tokens to train on{rows}; {wanted.written:,.0f} to write; all epochs to come"
    usd = machine_types.per_hour(_hired(spec), spec.compute.volume_gb)
    return GpuHours(likely=_short(likely), low=_short(low), high=_short(high), basis=f"{basis}; {what}", usd_per_hour=usd)


def _told(session: Session, spec: RunSpec) -> tuple[Speeds, str] | None:
    alike = {"model": spec.student.model, "method": spec.student.method, "looked_at": LOOKED_AT}
    told = {row[0]: (float(row[1]), int(row[2])) for row in session.execute(TOLD, alike)}
    if "tokens_per_second" not in told:
        return None
    training, runs = told["tokens_per_second"]
    generation, _ = told.get("generated_tokens_per_second", (0.0, 0))
    if not generation and tokens(spec).written:
        return None
    basis = f"{training:,.0f} tokens/s in training" + (f" and {generation:,.0f} in generation" if generation else "")
    return Speeds(training, generation or 1.0, UNSURE_MEASURED), f"{basis}, as {runs} runs of this student told"


def _calculated(session: Session, spec: RunSpec) -> tuple[Speeds, str] | None:
    shape = catalogue.shape_of(spec.student.model)
    if shape is None:
        return None
    query = select(WorkerRow.capabilities).where(WorkerRow.service == "gpu_trainer").order_by(WorkerRow.seen_at.desc()).limit(20)
    trainers = list(session.scalars(query))
    gpus = [str(able["gpu"]) for able in trainers if able.get("gpu") and any(name in str(able["gpu"]) for name in DEVICES)]
    gpu = machine_types.gpu(_hired(spec))
    if gpu:
        cpus, where = 0, f"on the {gpu} of {spec.compute.instance_type}"
    elif spec.student.device == "cpu" or (trainers and not gpus):
        cpus = max((int(able.get("cpus") or 1) for able in trainers), default=1)
        gpu, where = None, f"on {cpus} cores"
    else:
        gpu = gpus[0] if gpus else "A100"
        cpus, where = 0, f"on one {gpu}" + ("" if gpus else ", as no trainer is there to be asked")
    speeds = by_data_sheet(shape, spec, gpu, cpus)
    if speeds is None:
        return None
    basis = f"calculated {where}, not measured: {speeds.training:,.0f} tokens/s in training"
    return speeds, f"{basis} and {speeds.generation:,.0f} in generation"


def _hired(spec: RunSpec) -> str:
    """The type of the run's own machine, as far as the spec names it."""
    return spec.compute.instance_type or "" if spec.compute.kind != "local" else ""


def _short(value: float) -> float:
    return float(f"{value:.2g}")
