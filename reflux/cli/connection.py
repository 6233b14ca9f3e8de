"""Which API the commands talk to: REFLUX_URL and REFLUX_KEY, else the embedded stack of this folder."""

import json
import os
from pathlib import Path

import typer

from reflux.cli.output import err
from reflux.client import Client

STATE = Path(".reflux")


def connect() -> Client:
    url, key = os.environ.get("REFLUX_URL"), os.environ.get("REFLUX_KEY")
    state = STATE / "stack.json"
    if not url and state.exists():
        url = json.loads(state.read_text())["api_url"]
        key = key or json.loads((STATE / "keys.json").read_text())["operator"]
    if not url or not key:
        err(
            "No Reflux to talk to: there is no stack in this folder, and REFLUX_URL and REFLUX_KEY are not set.",
            "Start one with `reflux up`, in another terminal.",
        )
        raise typer.Exit(3)
    return Client(url, key)
