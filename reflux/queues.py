"""The only map from a command to its Celery task name and its queue. A review is a person's, and has neither.

A message is a doorbell: {task_id, run_id, kind}. What is to be done stands in Postgres.
"""

from typing import Any

from celery import Celery

ROUTES: dict[str, str] = {
    "preflight": "teacher_worker.preflight",
    "provision": "teacher_worker.provision",
    "prepare": "teacher_worker.prepare",
    "teach": "teacher_worker.teach",
    "correct": "teacher_worker.correct",
    "deliver": "teacher_worker.deliver",
    "clean_up": "teacher_worker.clean_up",
    "score": "evaluator.score",
    "judge": "evaluator.judge",
    "compare": "evaluator.compare",
    "train": "gpu_trainer.train",
    "run_job": "gpu_trainer.run_job",
    "generate": "gpu_trainer.generate",
    "export_model": "gpu_trainer.export_model",
}


GPU = "gpu_trainer"


def service(kind: str) -> str:
    """The service, and the queue of the same name, that carries out commands of this kind."""
    return ROUTES[kind].split(".")[0]


def kinds(service_name: str) -> list[str]:
    return [kind for kind in ROUTES if service(kind) == service_name]


def make_app(broker_url: str, name: str = "reflux") -> Celery:
    """A Celery app that rings and hears doorbells: early acknowledgement, no retries, no results."""
    app = Celery(name, broker=broker_url)
    app.conf.update(
        task_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,
        task_acks_late=False,
        worker_prefetch_multiplier=1,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        broker_connection_retry=True,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={"socket_timeout": 10, "socket_connect_timeout": 5, "health_check_interval": 10},
        worker_cancel_long_running_tasks_on_connection_loss=False,
        task_create_missing_queues=True,
    )
    return app


def ring(app: Celery, *, task_id: int, run_id: str, kind: str) -> None:
    message: dict[str, Any] = {"task_id": task_id, "run_id": run_id, "kind": kind}
    app.send_task(ROUTES[kind], kwargs=message, queue=service(kind), ignore_result=True)
