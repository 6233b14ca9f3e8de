"""Which API the commands talk to: REFLUX_URL and REFLUX_KEY, else the embedded stack of this folder."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import httpx
import typer

from reflux.cli.output import err
from reflux.client import AWAY, ApiError, Client, Unreachable

T = TypeVar("T")

STATE = Path(".reflux")
QUICK_SECONDS = 2.0


def connect() -> Client:
    """Exit 3 where no API is known, 2 where what is set can't be an address or a key."""
    url, key = _known()
    if not url or not key:
        err(
            "No Reflux to talk to: there is no stack in this folder, and REFLUX_URL and REFLUX_KEY are not both set.",
            "Start one with `reflux up`, in another terminal.",
        )
        raise typer.Exit(3)
    if not (key.isascii() and key.isprintable()):
        err("REFLUX_KEY holds characters that no key has.", "Set it to a key that `reflux keys create` printed.")
        raise typer.Exit(2)
    try:
        return Client(url, key)
    except httpx.InvalidURL as error:
        err(f"{url} is no address: {error}", "Set REFLUX_URL as in http://127.0.0.1:8400.")
        raise typer.Exit(2) from error


def patiently(client: Client, ask: Callable[[], T], away: Callable[[], object] = lambda: None) -> T:
    """What `ask` is answered, over any outage of the API: then `away` is called. An embedded stack may come back elsewhere."""
    told = False
    while True:
        try:
            return ask()
        except (Unreachable, ApiError) as error:
            if isinstance(error, ApiError) and error.problem.status not in AWAY:
                raise
        if not told:
            away()
            told = True
        if url := _known()[0]:
            client.http.base_url = url


def quick_client() -> Client | None:
    """One that gives up soon; None where no API is known."""
    url, key = _known()
    try:
        return Client(url, key, tries=1, timeout=QUICK_SECONDS) if url and key else None
    except (httpx.InvalidURL, UnicodeError):
        return None


def run_ids(incomplete: str) -> list[tuple[str, str]]:
    """For shell completion: the newest runs, with their names. Nothing where there is no API at once."""
    client = quick_client()
    if client is None:
        return []
    with client:
        try:
            runs = client.runs(limit=50).data
        except (ApiError, Unreachable):
            return []
    return [(run.id, f"{run.name}, {run.status}") for run in runs if run.id.startswith(incomplete)]


def _known() -> tuple[str, str]:
    url, key = os.environ.get("REFLUX_URL", "").strip(), os.environ.get("REFLUX_KEY", "").strip()
    if not url:
        try:
            url = json.loads((STATE / "stack.json").read_text())["api_url"]
            key = key or json.loads((STATE / "keys.json").read_text())["operator"]
        except (OSError, ValueError, KeyError, TypeError):
            return "", ""
    return url, key
