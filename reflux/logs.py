"""Structured logs: JSON lines without secrets, each with its service and whatever is bound (run_id, task, epoch, stage)
and, where there are traces, its run's trace_id."""

import logging
import os
import sys

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from reflux import leaks, traces


def set_up(service: str) -> None:
    """Call once, at the start of a process. REFLUX_LOG_FORMAT=console prints for people."""

    def name_service(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
        return {"service": service, **event}

    def redact(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
        return {name: leaks.redacted(value) if isinstance(value, str) else value for name, value in event.items()}

    renderer: Processor = structlog.processors.JSONRenderer()
    if os.environ.get("REFLUX_LOG_FORMAT") == "console":
        renderer = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            traces.note_trace,
            name_service,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.format_exc_info,
            redact,
            renderer,
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(name)s %(message)s")
