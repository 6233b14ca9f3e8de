"""OpenTelemetry traces, one a run, over OTLP/HTTP. Off, and nothing of it imported, unless OTEL_EXPORTER_OTLP_ENDPOINT is set.

The ids of a run's trace, and of its tasks' and attempts' spans, are hashes of their names: every process knows them, after any
restart. Attributes hold ids, counts and codes; no text of a prompt, an answer or an error.
"""

import hashlib
import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import structlog

from reflux.errors import Stopped
from reflux.secret import secret

if TYPE_CHECKING:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span as SdkSpan
    from opentelemetry.trace import SpanContext

log = structlog.get_logger()

CLOSE_SECONDS = 3.0
DELAY_SECONDS = 1.0  # a killed process loses the spans of so long
TOLD_SECONDS = 60.0  # at most so often the log says that the collector is away

Attributes = Mapping[str, str | int | float | bool]
Kind = Literal["internal", "server", "client", "producer", "consumer"]

_provider: "TracerProvider | None" = None


def set_up(service: str) -> None:
    """Call once, after logs.set_up. What is wrong with the settings is logged, and traces stay off."""
    global _provider  # noqa: PLW0603 (one a process)
    endpoint = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    if not endpoint or os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.sampling import ALWAYS_ON

    library = logging.getLogger("opentelemetry")
    library.propagate, library.handlers = False, [_NowAndThen()]
    try:
        processor = BatchSpanProcessor(exporter(), schedule_delay_millis=DELAY_SECONDS * 1000)
    except (OSError, ValueError) as error:
        log.error("traces_off", problem=str(error)[:200], do="Correct the OTEL_ variables and start the process again.")
        return
    _provider = TracerProvider(ALWAYS_ON, _resource(service), shutdown_on_exit=False)
    _provider.add_span_processor(processor)


def close() -> None:
    """Send what is left, for CLOSE_SECONDS at most."""
    global _provider
    provider, _provider = _provider, None
    if provider is not None:
        sending = threading.Thread(target=provider.shutdown, daemon=True)
        sending.start()
        sending.join(CLOSE_SECONDS)


def on() -> bool:
    return _provider is not None


def exporter() -> "OTLPSpanExporter":
    """To the collector that the OTEL_ variables name. ValueError or OSError where they are wrong."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.util.re import parse_env_headers

    headers = secret("OTEL_EXPORTER_OTLP_HEADERS")
    return OTLPSpanExporter(headers=parse_env_headers(headers, liberal=True) if headers else None)


def resource() -> "Resource":
    assert _provider is not None
    return _provider.resource


def trace_id(run_id: str) -> str:
    """32 hexadecimal digits."""
    return hashlib.sha256(run_id.encode()).hexdigest()[:32]


def span_id(run_id: str, *path: str | int) -> str:
    """16 hexadecimal digits. No path: the run itself; a task's key; a task's key and an attempt's number."""
    return hashlib.sha256("/".join(map(str, ("span", run_id, *path))).encode()).hexdigest()[:16]


def traceparent(run_id: str, *path: str | int) -> str | None:
    """What a child of that span is given (W3C). None: traces are off."""
    return f"00-{trace_id(run_id)}-{span_id(run_id, *path)}-01" if on() else None


class Span:
    """A span under way; its children are given `traceparent`. Where traces are off it takes everything and does nothing."""

    def __init__(self, span: "SdkSpan | None" = None) -> None:
        self._span = span
        self.traceparent: str | None = None
        if span is not None:
            context = span.get_span_context()
            self.traceparent = f"00-{context.trace_id:032x}-{context.span_id:016x}-01"

    def note(self, attributes: Attributes) -> None:
        if self._span is not None:
            self._span.set_attributes(attributes)

    def event(self, name: str) -> None:
        if self._span is not None:
            self._span.add_event(name)


@contextmanager
def span(
    name: str,
    parent: str | None,
    attributes: Attributes | None = None,
    *,
    kind: Kind = "internal",
    began: int | None = None,
    link: str | None = None,
) -> Iterator[Span]:
    """A span below `parent`, from now or from `began` (nanoseconds since 1970) on. `parent` and `link` are traceparents.

    An exception ends it as an error, by its code. Nothing is made without a parent, or of one that is no traceparent.
    """
    above = context(parent)
    if _provider is None or above is None:
        yield Span()
        return
    from opentelemetry.trace import Link, NonRecordingSpan, SpanKind, Status, StatusCode, set_span_in_context

    linked = context(link)
    made = _provider.get_tracer("reflux").start_span(
        name,
        set_span_in_context(NonRecordingSpan(above)),
        SpanKind[kind.upper()],
        attributes,
        [Link(linked)] if linked else None,
        began,
    )
    try:
        yield Span(made)
    except Stopped as stop:
        made.set_attribute("reflux.stopped", stop.why)
        raise
    except Exception as error:
        made.set_status(Status(StatusCode.ERROR, getattr(error, "code", type(error).__name__)))
        raise
    finally:
        made.end()


def context(traceparent: str | None) -> "SpanContext | None":
    """None for none, and for what is no traceparent."""
    if not on() or not traceparent:
        return None
    from opentelemetry.trace import get_current_span
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    found = get_current_span(TraceContextTextMapPropagator().extract({"traceparent": traceparent})).get_span_context()
    return found if found.is_valid else None


def _resource(service: str) -> "Resource":
    from opentelemetry.sdk.resources import Resource

    from reflux import __version__

    return Resource.create({"service.namespace": "reflux", "service.name": service, "service.version": __version__})


class _NowAndThen(logging.Handler):
    """What OpenTelemetry complains of goes into our log, and only now and then."""

    told = float("-inf")

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING and time.monotonic() - self.told > TOLD_SECONDS:
            self.told = time.monotonic()
            log.warning("collector_away", problem=record.getMessage()[:200])


def note_trace(_: Any, __: str, event: Any) -> Any:
    """A processor of logs: whatever concerns a run names its trace."""
    if on() and (run_id := event.get("run_id")):
        event["trace_id"] = trace_id(str(run_id))
    return event
