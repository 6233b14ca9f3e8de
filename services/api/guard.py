"""Around every answer: bodies have a limit, with or without a Content-Length, and browsers are told to trust nothing."""

import re

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.api import problems
from services.api.problems import ProblemError
from services.api.settings import Settings

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
}
UPLOAD = re.compile(r"/_nicegui/client/[^/]+/upload/[^/]+")  # of a file, on a page of the dashboard


class Guard:
    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app = app
        self.settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        uploads = scope["path"] == "/v1/datasets" or UPLOAD.fullmatch(scope["path"])
        limit = self.settings.max_dataset_bytes if uploads else self.settings.max_body_bytes
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit:
                raise _too_large(limit)
            return message

        async def marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        length = Headers(scope=scope).get("content-length", "0")
        if not length.isdigit() or int(length) > limit:
            await problems.answer(_too_large(limit))(scope, receive, marked)
            return
        await self.app(scope, counted, marked)


def _too_large(limit: int) -> ProblemError:
    return ProblemError(413, "too_large", f"A body may have {limit} bytes here.", "Send less.")
