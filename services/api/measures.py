"""What Prometheus reads: drawn from Postgres when it asks, so that every API process tells the same and a restart loses nothing.

Runs can be deleted, so what they add up to is a gauge.
"""

import threading
import time
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric, SummaryMetricFamily
from prometheus_client.registry import Collector
from sqlalchemy import Engine, text

from reflux.errors import POLICIES
from reflux.queues import ROUTES, service

KEPT_SECONDS = 10.0  # several readers, or an eager one, cost Postgres no more than one

RUNS = "select status, count(*) from runs group by 1"
TASKS = """
    select kind, stage, status, count(*), coalesce(sum(extract(epoch from ended_at - claimed_at)), 0)
    from tasks group by 1, 2, 3
"""
WAITING = """
    select kind, count(*), max(extract(epoch from now() - due_at)), count(orphaned_at),
           coalesce(max(extract(epoch from now() - greatest(due_at, ring_at))) filter (where ring_at <= now()), 0)
    from tasks where status = 'ready' and due_at <= now() group by 1
"""
ERRORS = "select error ->> 'code', sum(greatest(failures, 1)) from tasks where error is not null group by 1"
BUDGETS = """
    select id, name, (usage ->> 'cost_usd')::float / (state #>> '{spec,limits,max_teacher_cost_usd}')::float
    from runs where ended_at is null and (state #>> '{spec,limits,max_teacher_cost_usd}')::float > 0
"""
TEACHER = """
    select coalesce(sum((usage ->> 'calls')::bigint), 0), coalesce(sum((usage ->> 'input_tokens')::bigint), 0),
           coalesce(sum((usage ->> 'output_tokens')::bigint), 0), coalesce(sum((usage ->> 'cost_usd')::float), 0)
    from runs
"""
SCORES = """
    select id, name, (state #>> '{epochs,-1,practice,overall}')::float, (state #>> '{epochs,-1,dev,overall}')::float,
           (state #>> '{epochs,-1,correction_rate}')::float
    from runs where ended_at is null and state #> '{epochs,-1}' is not null
"""
WORKERS = """
    select w.name, w.service, extract(epoch from now() - w.seen_at), (w.capabilities ->> 'gpu_memory_gb')::float,
           (w.capabilities ->> 'disk_free_gb')::float,
           (select m.value from tasks t join metrics m on m.run_id = t.run_id and m.name = 'memory_gb'
            where t.worker = w.name and t.status = 'claimed' and w.service = 'gpu_trainer' order by m.id desc limit 1)
    from workers w where w.seen_at > now() - interval '1 day'
"""


class Measures(Collector):
    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._lock = threading.Lock()
        self._page, self._drawn_at = b"", float("-inf")

    def page(self) -> bytes:
        """All measures in Prometheus' text format, at most some seconds old."""
        with self._lock:
            if time.monotonic() - self._drawn_at > KEPT_SECONDS:
                registry = CollectorRegistry()
                registry.register(self)
                self._page, self._drawn_at = generate_latest(registry), time.monotonic()
            return self._page

    def collect(self) -> Iterator[Metric]:
        yield self._gauge("reflux_runs", "Runs kept, by status", ["status"], RUNS)
        yield from self._tasks()
        yield from self._queues()
        yield self._errors()
        yield from self._teacher()
        yield self._gauge("reflux_run_budget_used", "Share of a run's teacher budget", ["run_id", "name"], BUDGETS)
        yield from self._scores()
        yield from self._workers()

    def _tasks(self) -> Iterator[Metric]:
        outcomes = GaugeMetricFamily("reflux_tasks", "Tasks of the runs kept, by kind and status", labels=["kind", "status"])
        seconds = SummaryMetricFamily(
            "reflux_task_seconds", "Seconds that tasks took which are done, by stage and kind", labels=["stage", "kind"]
        )
        for kind, stage, status, count, took in self._rows(TASKS):
            outcomes.add_metric([kind, status], count)
            if status == "done":
                seconds.add_metric([stage, kind], count, float(took))
        yield outcomes
        yield seconds

    def _queues(self) -> Iterator[Metric]:
        depth = GaugeMetricFamily("reflux_queue_depth", "Tasks that wait for a worker", labels=["queue"])
        age = GaugeMetricFamily("reflux_queue_age_seconds", "How long the oldest of them has waited", labels=["queue"])
        orphans = GaugeMetricFamily("reflux_orphaned_tasks", "Those of them whose worker went silent", labels=["queue"])
        depths = dict.fromkeys((*sorted(set(map(service, ROUTES))), "person"), 0)
        ages = dict.fromkeys(depths, 0.0)
        lost, unrung = dict.fromkeys(depths, 0), 0.0
        for kind, count, oldest, orphaned, silent in self._rows(WAITING):
            queue = service(kind) if kind in ROUTES else "person"
            depths[queue] += count
            lost[queue] += orphaned
            unrung = max(unrung, float(silent)) if kind in ROUTES else unrung
            ages[queue] = max(ages[queue], float(oldest))
        for queue in depths:
            depth.add_metric([queue], depths[queue])
            age.add_metric([queue], ages[queue])
            orphans.add_metric([queue], lost[queue])
        yield from (depth, age, orphans)
        yield GaugeMetricFamily("reflux_unrung_seconds", "How long a ring has been overdue; control rings at once", unrung)

    def _errors(self) -> Metric:
        """Each code has a number from the beginning, so that the first error is seen as a rise."""
        found = dict(self._rows(ERRORS))
        family = GaugeMetricFamily("reflux_task_errors", "Failed attempts of the tasks kept", labels=["class", "code"])
        for code, policy in POLICIES.items():
            family.add_metric([policy.error_class.value, code], float(found.get(code, 0)))
        return family

    def _teacher(self) -> Iterator[Metric]:
        ((calls, tokens_in, tokens_out, cost),) = self._rows(TEACHER)
        yield GaugeMetricFamily("reflux_teacher_calls", "Teacher answers that the runs kept have bought", float(calls))
        tokens = GaugeMetricFamily("reflux_teacher_tokens", "Tokens of those calls", labels=["direction"])
        tokens.add_metric(["in"], float(tokens_in))
        tokens.add_metric(["out"], float(tokens_out))
        yield tokens
        yield GaugeMetricFamily("reflux_teacher_cost_usd", "What they cost, by the price tables", cost)

    def _scores(self) -> Iterator[Metric]:
        score = GaugeMetricFamily(
            "reflux_run_score", "Mean score, 0 to 10, of the newest epoch", labels=["run_id", "name", "set"]
        )
        rate = GaugeMetricFamily("reflux_run_correction_rate", "Share of poor answers in it", labels=["run_id", "name"])
        for run_id, name, practice, dev, poor in self._rows(SCORES):
            for prompt_set, value in (("practice", practice), ("dev", dev)):
                if value is not None:
                    score.add_metric([run_id, name, prompt_set], value)
            rate.add_metric([run_id, name], poor)
        yield score
        yield rate

    def _workers(self) -> Iterator[Metric]:
        labels = ["worker", "service"]
        silent = GaugeMetricFamily("reflux_worker_silent_seconds", "Since a worker was last heard of", labels=labels)
        there = GaugeMetricFamily("reflux_gpu_memory_gb", "GPU memory of a worker, 10^9 bytes", labels=labels)
        used = GaugeMetricFamily("reflux_memory_used_gb", "What the run on it said last that it uses", labels=labels)
        disk = GaugeMetricFamily("reflux_disk_free_gb", "Disk that a worker had free when it started, 10^9 bytes", labels=labels)
        for name, of, seconds, memory, free, in_use in self._rows(WORKERS):
            silent.add_metric([name, of], float(seconds))
            if memory is not None:
                there.add_metric([name, of], memory)
            if free is not None:
                disk.add_metric([name, of], free)
            if in_use is not None:
                used.add_metric([name, of], in_use)
        yield from (silent, there, used, disk)

    def _gauge(self, name: str, told: str, labels: list[str], query: str) -> GaugeMetricFamily:
        family = GaugeMetricFamily(name, told, labels=labels)
        for *values, count in self._rows(query):
            family.add_metric([str(value) for value in values], count)
        return family

    def _rows(self, query: str) -> list[tuple]:  # type: ignore[type-arg]
        with self.engine.connect() as connection:
            return [tuple(row) for row in connection.execute(text(query))]
