"""Structured logs: JSON lines, each with its service and whatever is bound (run_id, task, epoch, stage)."""

import logging
import os
import sys

import structlog


def set_up(service: str) -> None:
    """Call once, at the start of a process. REFLUX_LOG_FORMAT=console prints for people."""
    renderer: structlog.typing.Processor = structlog.processors.JSONRenderer()
    if os.environ.get("REFLUX_LOG_FORMAT") == "console":
        renderer = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.format_exc_info,
            renderer,
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(service=service)
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(name)s %(message)s")
