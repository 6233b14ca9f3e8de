"""The door to the dashboard: nobody gets in without a sign-in, or from another site; pages load nothing from elsewhere."""

import secrets
from urllib.parse import quote, urlsplit

from fastapi.concurrency import run_in_threadpool
from sqlalchemy import Engine
from sqlalchemy.orm import Session
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.api import sign_ins
from services.api.auth import digest
from services.api.sign_ins import Visitor

COOKIE = "reflux_sign_in"
OPEN = ("/_nicegui/", "/_reflux/")  # scripts, styles and fonts, the same for everybody; uploads are below
SOCKET = "/_nicegui_ws/"
NOBODY = b"client_id=none&tab_id=none&document_id=none&implicit_handshake=true"

# Vue makes functions of its templates and Quasar writes styles, hence the two `unsafe-`; a script that was slipped into a
# page lacks the nonce, and does not run.
POLICY = (
    "default-src 'none'; script-src 'self' 'nonce-{nonce}' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


class Door:
    def __init__(self, app: ASGIApp, engine: Engine) -> None:
        self.app = app
        self.reads = engine.execution_options(isolation_level="AUTOCOMMIT")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers, path = Headers(scope=scope), scope["path"]
        if not same_site(headers):
            await _refuse(scope, receive, send)
            return
        if path.startswith(OPEN) and scope.get("method") in ("GET", "HEAD"):
            await self.app(scope, receive, send)
            return
        visitor = await self._visitor(headers)
        if visitor is not None:
            scope.setdefault("state", {})["visitor"] = visitor
            await self.app(scope, receive, _with_nonce(send))
        elif path.startswith(SOCKET):
            # An open page whose sign-in is over is taken for a page that is not known, so that it loads itself anew.
            await self.app({**scope, "query_string": _nobody(scope["query_string"])}, receive, send)
        elif scope["method"] == "GET":
            query = f"?{scope['query_string'].decode('latin-1')}" if scope["query_string"] else ""
            await RedirectResponse(f"/sign-in?next={quote(path + query, safe='')}", 303)(scope, receive, send)
        else:
            await PlainTextResponse("Sign in first.", 401)(scope, receive, send)

    async def _visitor(self, headers: Headers) -> Visitor | None:
        token = cookie_parser(headers.get("cookie", "")).get(COOKIE)
        return await run_in_threadpool(self._look_up, digest(token)) if token else None

    def _look_up(self, sign_in: str) -> Visitor | None:
        with Session(self.reads) as session:
            return sign_ins.visitor(session, sign_in)


def same_site(headers: Headers) -> bool:
    """Whether what asks is a page of this host, or no page at all."""
    origin = headers.get("origin")
    return origin is None or urlsplit(origin).netloc == headers.get("host")


def _nobody(query: bytes) -> bytes:
    kept = [part for part in query.split(b"&") if part.startswith((b"EIO=", b"transport=", b"sid=", b"t="))]
    return b"&".join([*kept, NOBODY])


async def _refuse(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
    else:
        await PlainTextResponse("This was asked by a page of another site.", 403)(scope, receive, send)


def _with_nonce(send: Send) -> Send:
    """Pages of HTML get a policy, and their own scripts its nonce. NiceGUI escapes every `<` of what it shows."""
    nonce = secrets.token_urlsafe(16)
    start: Message | None = None
    body = b""

    async def marked(message: Message) -> None:
        nonlocal start, body
        if message["type"] == "http.response.start" and MutableHeaders(scope=message).get("content-type", "").startswith(
            "text/html"
        ):
            start = message
        elif message["type"] == "http.response.body" and start is not None:
            body += message.get("body", b"")
            if not message.get("more_body"):
                body = body.replace(b"<script", f'<script nonce="{nonce}"'.encode())
                headers = MutableHeaders(scope=start)
                headers["Content-Length"] = str(len(body))
                headers["Content-Security-Policy"] = POLICY.format(nonce=nonce)
                headers["Referrer-Policy"] = "same-origin"  # with none, a form's Origin would be null
                await send(start)
                await send({"type": "http.response.body", "body": body})
        else:
            await send(message)

    return marked
