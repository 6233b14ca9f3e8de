"""The commands over a real API: in a terminal of 80 columns, without one, for scripts, and while the API is away."""

import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from reflux.artifacts import Artifacts
from reflux.cli import app
from reflux.client import ApiError, Client
from reflux.local.stack import Stack
from reflux.worker import Api
from tests.integration.by_hand import SPEC, HandWorker
from tests.integration.test_api_runs import finished, store  # noqa: F401 (fixtures)

COMMAND = [sys.executable, "-c", "import sys; sys.argv[0] = 'reflux'; from reflux.cli import main; main()"]
LONG = "[/red] a name too long for a table of eighty columns, that Rich could take for markup"


def surroundings(stack: Stack) -> dict[str, str]:
    given = {"REFLUX_URL": stack.api_url, "REFLUX_KEY": stack.keys["operator"], "TERM": "xterm-256color"}
    return {name: value for name, value in os.environ.items() if name != "COLUMNS"} | given


def call(stack: Stack, *words: str) -> Result:
    return CliRunner().invoke(app, list(words), env={**surroundings(stack), "COLUMNS": "80"})


def in_a_terminal(env: dict[str, str], *words: str) -> str:
    """What a terminal of 80 columns is sent as output; errors are sentences, which it wraps itself."""
    near, far = pty.openpty()
    fcntl.ioctl(far, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    with subprocess.Popen([*COMMAND, *words], env=env, stdin=far, stdout=far, stderr=subprocess.DEVNULL):
        os.close(far)
        told = b""
        try:
            while data := os.read(near, 65536):
                told += data
        except OSError:  # the other end is closed
            pass
    os.close(near)
    return told.decode()


@pytest.mark.parametrize("colour", [True, False])
def test_eighty_columns_with_and_without_colour(
    control_plane: Stack, client: Client, worker: HandWorker, *, colour: bool
) -> None:
    run = client.create(SPEC | {"name": LONG})
    worker.fail(worker.take(run.id), "access_denied", "no right to read [/red] s3://data")
    worker.work(run.id)
    env = surroundings(control_plane) | ({} if colour else {"NO_COLOR": "1"})
    for words in (["run", "list"], ["run", "show", run.id], ["keys", "list"], ["run", "start", "--help"]):
        told = in_a_terminal(env, *words)
        assert "Traceback" not in told
        lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", told).replace("\r", "").split("\n")
        assert max(len(line) for line in lines if "/" not in line.replace("[/red]", "")) <= 80
        assert colour or not re.search(r"\x1b\[[0-9;]*[39][0-7]m", told)


def test_answers_logs_report_and_downloads(control_plane: Stack, finished: str, store: Artifacts, tmp_path: Path) -> None:  # noqa: F811
    worst = call(control_plane, "run", "answers", finished, "--epoch", "1", "--set", "practice", "--limit", "1")
    assert worst.exit_code == 0, worst.output
    assert "Write 0." in worst.output
    assert "the teacher's correction: admitted, 2.00 → 9.00" in worst.output
    rows = json.loads(call(control_plane, "run", "answers", finished, "--epoch", "1", "--json").stdout)["data"]
    assert [row["verdict"]["overall"] for row in rows] == sorted(row["verdict"]["overall"] for row in rows)
    store.put(f"runs/{finished}/report.md", b"# What the run did\n")
    assert call(control_plane, "run", "report", finished).stdout == "# What the run did\n"
    assert call(control_plane, "run", "report", finished, "-o", str(tmp_path / "r.md")).exit_code == 0
    assert (tmp_path / "r.md").read_text() == "# What the run did\n"
    assert "report.md" in call(control_plane, "run", "download", finished).stdout
    assert call(control_plane, "run", "download", finished, "nothing").exit_code == 1
    assert call(control_plane, "run", "delete", finished).exit_code == 1, "nobody said yes"
    assert call(control_plane, "run", "delete", finished, "--yes").exit_code == 0
    assert call(control_plane, "run", "show", finished).exit_code == 1


def test_logs_by_gravity(control_plane: Stack, client: Client, worker: HandWorker) -> None:
    run = client.create(SPEC)
    worker.beat(
        worker.take(run.id), logs=[{"line": f"{level} \x1b[2J", "level": level} for level in ("info", "warning", "error")]
    )
    told = call(control_plane, "run", "logs", run.id, "--level", "warning").stdout
    assert re.findall(r"(info|warning|error) \N{REPLACEMENT CHARACTER}", told) == ["warning", "error"]
    assert len(call(control_plane, "run", "logs", run.id, "--json").stdout.splitlines()) == 3
    newest = call(control_plane, "run", "logs", run.id, "--last", "2", "--json").stdout.splitlines()
    assert [json.loads(line)["level"] for line in newest] == ["warning", "error"]
    client.abort(run.id)


def test_keys(control_plane: Stack, client: Client) -> None:
    made = call(control_plane, "keys", "create", "viewer", "--label", "a test")
    with Client(control_plane.api_url, made.stdout.strip()) as viewer:
        assert viewer.runs(limit=1)
    (key,) = [key for key in json.loads(call(control_plane, "keys", "list", "--json").stdout) if key["label"] == "a test"]
    assert call(control_plane, "keys", "revoke", key["id"]).exit_code == 0
    assert call(control_plane, "keys", "revoke", "key_none").exit_code == 1


def test_an_id_leads_nowhere_else(client: Client) -> None:
    key = client.create_key("viewer", "kept")
    for call_ in (lambda: client.delete(f"../keys/{key.id}"), lambda: client.run("../keys"), lambda: client.abort("?x#y")):
        with pytest.raises(ApiError) as refused:
            call_()
        assert refused.value.problem.status == 404
    assert key.id in {kept.id for kept in client.all_keys() if not kept.revoked_at}
    client.revoke_key(key.id)


def test_the_shell_completes_commands_and_runs(control_plane: Stack, client: Client, tmp_path: Path) -> None:
    """As `reflux --install-completion` leaves it, in a bash of its own."""
    program = tmp_path / "bin" / "reflux"
    program.parent.mkdir()
    program.write_text(f"#!{sys.executable}\nfrom reflux.cli import main\nmain()\n")
    program.chmod(0o755)
    run = client.create(SPEC)
    env = surroundings(control_plane) | {"HOME": str(tmp_path), "PATH": f"{program.parent}:{os.environ['PATH']}"}
    script = f"""
        reflux --install-completion >&2
        source ~/.bashrc
        complete_with() {{
            COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
            "$(complete -p reflux | grep -o -E -- '-F [^ ]+' | cut -d' ' -f2)" reflux
            echo "${{COMPREPLY[*]}}"
        }}
        complete_with reflux verify-
        complete_with reflux run logs {run.id[:-3]}
    """
    told = subprocess.run(["bash", "-c", script], env=env, capture_output=True, text=True, check=False)
    client.abort(run.id)
    assert told.stdout.split("\n")[:2] == ["verify-cleanup", run.id], told.stderr


@pytest.fixture(scope="module")
def fragile(ground: Path) -> Iterator[Stack]:
    with Stack(ground / "cli", workers={}, durable=False) as stack:
        yield stack


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Children of a process that ignores SIGINT, as one in the background may, would ignore it too."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_watch_and_events_outlive_the_api(fragile: Stack) -> None:
    with Client(fragile.api_url, fragile.keys["operator"]) as client:
        run = client.create(SPEC)
        env = surroundings(fragile)
        watching = subprocess.Popen([*COMMAND, "run", "watch", run.id], env=env, stdout=subprocess.PIPE, text=True)
        leaving = subprocess.Popen([*COMMAND, "run", "watch", run.id], env=env, stdout=subprocess.PIPE, text=True)
        seen: list[int] = []
        following = threading.Thread(target=lambda: seen.extend(event.seq for event in client.follow(run.id)))
        following.start()
        with watching, leaving, ExitStack() as at_last:
            at_last.callback(watching.kill)
            at_last.callback(leaving.kill)
            assert watching.stdout
            assert leaving.stdout
            assert "run accepted" in watching.stdout.readline()
            assert "run accepted" in leaving.stdout.readline()
            leaving.send_signal(signal.SIGINT)
            assert leaving.wait(20) == 130
            fragile.stop("api")
            assert "the API is away" in watching.stdout.readline()
            fragile.start("api")
            with Client(fragile.api_url, fragile.keys["operator"], tries=9) as again:
                again.abort(run.id)
            api = Api(fragile.api_url, fragile.keys["worker"])
            with api.http:
                HandWorker(api, fragile).work(run.id)
            assert watching.wait(60) == 1, "an aborted run"
        following.join(30)
        assert seen == list(range(1, client.run(run.id).last_event + 1))


def test_no_api_is_exit_3(fragile: Stack) -> None:
    gone = surroundings(fragile) | {"REFLUX_URL": "http://127.0.0.1:1"}
    assert subprocess.run([*COMMAND, "run", "list"], env=gone, check=False).returncode == 3
