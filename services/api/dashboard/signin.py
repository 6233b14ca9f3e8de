"""Sign in by key, and out. Plain pages without a script, before the dashboard's door."""

import html
from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Form, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from services.api import sign_ins
from services.api.auth import digest
from services.api.dashboard import shell, style
from services.api.dashboard.door import COOKIE, same_site
from services.api.problems import ProblemError

router = APIRouter(include_in_schema=False, tags=["dashboard"])

POLICY = "default-src 'none'; style-src 'self'; img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
PAGE = """<!doctype html>
<html lang="en-US" data-look="{look}">
<head>
<meta charset="utf-8"><title>Sign in · Reflux</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">
<link rel="stylesheet" href="{css}"><link rel="icon" href="data:image/svg+xml,{icon}">
</head>
<body class="plain">
<main class="sign-in">
<h1><span class="mark" aria-hidden="true">{mark}</span>Reflux</h1>
<form method="post" action="/sign-in">
<input name="username" autocomplete="username" value="reflux" hidden>
<label for="key">Key</label>
<input id="key" name="key" type="password" autocomplete="current-password" maxlength="200" required autofocus{described}>
<input type="hidden" name="next" value="{next}">
{problem}<button type="submit">Sign in</button>
</form>
<p class="quiet"><code>reflux up</code> prints a key. An operator makes others: <code>POST /v1/keys</code>, with the role
<code>viewer</code> to look or <code>operator</code> to act.</p>
</main>
</body>
</html>"""


@router.get("/sign-in")
def form(request: Request, next: str = "/") -> HTMLResponse:
    return _page(request, next)


@router.post("/sign-in")
async def sign_in(
    request: Request, key: Annotated[str, Form(max_length=200)] = "", next: Annotated[str, Form()] = "/"
) -> Response:
    address = request.client.host if request.client else ""
    if not same_site(request.headers):
        return _page(request, next, "This was asked by a page of another site.", status=403)
    wait = request.app.state.guesses.take(address)
    if wait:
        told = f"Too many tries from this address. Wait {wait:.0f} seconds."
        return _page(request, next, told, status=429)
    try:
        token = await run_in_threadpool(_begin, request.app.state.engine, key.strip())
    except ProblemError as error:
        return _page(request, next, f"{error.problem.detail} {error.problem.hint}", status=error.status_code)
    answer = RedirectResponse(_local(next), 303)
    secure = request.url.scheme == "https"
    answer.set_cookie(COOKIE, token, httponly=True, samesite="lax", secure=secure, path="/", max_age=30 * 86400)
    return answer


@router.post("/sign-out")
async def sign_out(request: Request) -> Response:
    if not same_site(request.headers):
        return _page(request, "/", "This was asked by a page of another site.", status=403)
    token = request.cookies.get(COOKIE)
    if token:
        await run_in_threadpool(_end, request.app.state.engine, digest(token))
        shell.leave(digest(token))
    answer = RedirectResponse("/sign-in", 303)
    answer.delete_cookie(COOKIE, path="/", httponly=True, samesite="lax")
    return answer


def _begin(engine: Engine, key: str) -> str:
    with Session(engine) as session:
        token = sign_ins.begin(session, key)
        session.commit()
        return token


def _end(engine: Engine, sign_in: str) -> None:
    with Session(engine) as session:
        sign_ins.end(session, sign_in)
        session.commit()


def _local(target: str) -> str:
    """An address of this site, whatever was sent as one."""
    safe = target.startswith("/") and not target.startswith(("//", "/\\")) and target.isprintable()
    return target if safe else "/"


def _page(request: Request, target: str, problem: str = "", status: int = 200) -> HTMLResponse:
    drawn = PAGE.format(
        look=html.escape(request.cookies.get(shell.LOOK_COOKIE, "auto")),
        css=style.address(),
        icon=quote(shell.FAVICON),
        mark=shell.MARK,
        next=html.escape(_local(target)),
        described=' aria-describedby="problem" aria-invalid="true"' if problem else "",
        problem=f'<p id="problem" class="problem" role="alert">{html.escape(problem)}</p>' if problem else "",
    )
    return HTMLResponse(drawn, status, headers={"Content-Security-Policy": POLICY, "Referrer-Policy": "same-origin"})
