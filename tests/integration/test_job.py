"""The recipe `job` in a worker's hands: real commands, what they get, and what is kept of what they made."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from reflux.artifacts import Artifacts
from reflux.errors import RefluxError, Retriable, Terminal
from services.gpu_trainer import job, surroundings
from tests.integration.jobs import failing, phases, task
from tests.unit.test_operations import ROOT

pytestmark = pytest.mark.usefixtures("jobs_allowed")


WORKS = """
    import json, os, pathlib
    inputs, outputs = pathlib.Path(os.environ["REFLUX_INPUTS"]), pathlib.Path(os.environ["REFLUX_OUTPUTS"])
    parameters = json.load(open(os.environ["REFLUX_PARAMETERS"]))
    print("reading", sorted(p.name for p in inputs.iterdir()))
    told = {"progress": [1, 2], "unit": "series", "metrics": {"mae": 0.5}, "step": 7, "facts": {"models_trained": ["A"]}}
    print("::reflux", json.dumps(told))
    print("::reflux is not JSON")
    (outputs / "deep").mkdir()
    (outputs / "deep" / "sum.txt").write_text(str(sum(int(p.read_text()) for p in inputs.iterdir()) * parameters["times"]))
    (outputs / "environment.json").write_text(json.dumps(dict(os.environ)))
"""


@pytest.fixture
def inputs(tmp_path: Path) -> str:
    (tmp_path / "inputs").mkdir()
    for number in (1, 2, 3):
        (tmp_path / "inputs" / f"{number}.txt").write_text(str(number))
    return f"file://{tmp_path}/inputs"


def test_a_command_reads_its_inputs_and_its_outputs_are_kept(tmp_path: Path, scratch: Path, inputs: str) -> None:
    hand = task(tmp_path, WORKS, inputs_uri=inputs, parameters={"times": 10})
    event = job.run_job(hand)
    assert event.outputs_path == "runs/r1/tasks/run_job/attempt-1/outputs"
    assert hand.artifacts.get(f"{event.outputs_path}/deep/sum.txt") == b"60"
    report = hand.drain()
    ended = {p["name"]: p["facts"] for p in report["phases"] if p["status"] == "pass"}
    assert list(ended) == ["initialization", "data_sync", "training", "results_sync", "cleanup"]
    assert ended["data_sync"]["bytes_synced"] == len((tmp_path / "code/train.py").read_bytes()) + 3
    assert ended["training"] == ended["training"] | {"exit_code": 0, "models_trained": ["A"]}
    assert ended["results_sync"]["files_uploaded"] == 2
    lines = [line["line"] for line in report["logs"]]
    assert "reading ['1.txt', '2.txt', '3.txt']" in lines
    assert "::reflux is not JSON" in lines
    assert report["metrics"] == [{"step": 7, "values": {"mae": 0.5}}]
    assert b"reading" in hand.artifacts.get("runs/r1/logs/run_job-1.log")
    assert hand.artifacts.get_json("runs/r1/logs/run_job-1.json")["phases"]["training"]["exit_code"] == 0
    assert list(scratch.iterdir()) == []


def test_the_command_gets_no_key_of_ours(tmp_path: Path, inputs: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REFLUX_WORKER_KEY", "REFLUX_BROKER_URL", "AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "HTTPS_PROXY", "ANYTHING_ELSE"):
        monkeypatch.setenv(name, "a-secret-of-the-worker")
    hand = task(tmp_path, WORKS, inputs_uri=inputs, parameters={"times": 1}, environment={"MODE": "quick"})
    event = job.run_job(hand)
    seen = hand.artifacts.get_json(f"{event.outputs_path}/environment.json")
    assert "a-secret-of-the-worker" not in str(seen)
    assert seen["MODE"] == "quick"
    assert seen["SM_CHANNEL_TRAINING"] == seen["REFLUX_INPUTS"]
    assert json.loads(seen["SM_HPS"]) == {"times": 1}
    allowed = {*surroundings.PASSED_ON, "PATH", "HOME", "TMPDIR", "PYTHONUNBUFFERED", "MODE", "LC_CTYPE", "PWD"}
    assert {name for name in seen if not name.startswith(("REFLUX_", "SM_"))} <= allowed


def test_a_worker_that_hides_can_t_be_read_by_its_own_user(tmp_path: Path) -> None:
    """As root everything can be read; so this is tried as a plain user."""
    code = (
        "import ctypes, os, subprocess\n"
        "from services.gpu_trainer.surroundings import hide\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)\n"  # as after an exec
        "look = ['cat', f'/proc/{os.getpid()}/environ']\n"
        "print(subprocess.run(look, capture_output=True).returncode)\n"
        "hide()\n"
        "print(subprocess.run(look, capture_output=True).returncode)\n"
    )
    told = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert told == ["0", "1"]


def test_secrets_in_lines_are_blotted(tmp_path: Path) -> None:
    key = "AKIA" + "ABCDEFGHIJKLMNOP"
    hand = task(tmp_path, f"print('key', '{key}'); raise SystemExit(3)")
    failing(hand)
    assert key.encode() not in hand.artifacts.get("runs/r1/logs/run_job-1.log")
    assert key not in str(hand.drain()["logs"])


@pytest.mark.parametrize(
    ("command", "said", "advice"),
    [
        (["python", "-c", "raise SystemExit(3)"], "ended with exit code 3", "log"),
        (["sh", "-c", "kill -9 $$"], "ended by SIGKILL (killed)", "ran out of memory"),
        (["python", "-c", "import ctypes; ctypes.string_at(0)"], "ended by SIGSEGV", "A library crashed"),
        (["sh", "-c", "exit 127"], "exit code 127", "not found"),
        (["no-such-program"], "could not be started: No such file or directory: no-such-program", "job.code_uri"),
        (["./train.py"], "could not be started: Permission denied", "job.code_uri"),
        (["true"], "left nothing in REFLUX_OUTPUTS", "log"),
    ],
)
def test_a_command_that_failed_says_how(tmp_path: Path, scratch: Path, command: list[str], said: str, advice: str) -> None:
    hand = task(tmp_path, "pass", command=command)
    error = failing(hand)
    assert isinstance(error, Terminal)
    assert error.code == "job_failed"
    assert said in error.message
    assert advice in error.hint
    assert list(scratch.iterdir()) == []


def test_a_script_from_a_store_is_executable_again(tmp_path: Path) -> None:
    hand = task(tmp_path, '#!/bin/sh\necho done > "$REFLUX_OUTPUTS/x"\n', command=["./train.py"])
    assert job.run_job(hand).outputs_path


def test_unfinished_outputs_of_a_failed_command_are_kept_apart(tmp_path: Path) -> None:
    script = "import os; open(os.environ['REFLUX_OUTPUTS'] + '/half.txt', 'w').write('half'); raise SystemExit(1)"
    hand = task(tmp_path, script)
    failing(hand)
    assert hand.artifacts.get("runs/r1/partial/attempt-1/half.txt") == b"half"
    assert phases(hand) == {"initialization": "pass", "data_sync": "pass", "training": "fail", "cleanup": "pass"}


def test_a_link_out_of_the_outputs_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "private").write_text("private")
    script = f"""
        import os
        os.symlink("{tmp_path}/private", os.environ["REFLUX_OUTPUTS"] + "/link")
        open(os.environ["REFLUX_OUTPUTS"] + "/real", "w").write("real")
    """
    hand = task(tmp_path, script)
    folder = job.run_job(hand).outputs_path
    assert hand.artifacts.paths(folder) == [f"{folder}/real"]


def test_a_worker_that_may_not_run_commands_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REFLUX_JOBS")
    error = failing(task(tmp_path, "pass"))
    assert (error.code, isinstance(error, Terminal)) == ("jobs_not_allowed", True)
    assert "REFLUX_JOBS=1" in error.hint
    assert surroundings.capabilities() == {"jobs": False, "container_engine": None}


def test_a_container_without_an_engine_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    surroundings._looked_for.cache_clear()
    error = failing(task(tmp_path, "pass", container="python:3.11"))
    surroundings._looked_for.cache_clear()
    assert error.code == "no_container_engine"


ENGINE = """#!{python}
import os, subprocess, sys
open("{folder}/calls", "a").write(" ".join(sys.argv[1:]) + "\\n")
if sys.argv[1] != "run":
    sys.exit(0)
told, words = dict(), iter(sys.argv[2:])
for word in words:
    if word in ("--rm", "--init"):
        continue
    if not word.startswith("--"):
        break  # the image
    told.setdefault(word, []).append(next(words))
root = os.path.dirname(told["--volume"][0].split(":")[0])
command = [part.replace("/opt/reflux", root) for part in words]
env = dict(pair.replace("/opt/reflux", root).split("=", 1) for pair in told["--env"])
sys.exit(subprocess.run(command, env=env, cwd=told["--workdir"][0].replace("/opt/reflux", root)).returncode)
"""


def test_a_container_gets_the_folders_and_the_variables_and_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in for the engine, which runs the command where it is."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "docker").write_text(ENGINE.format(python=sys.executable, folder=tmp_path))
    (tmp_path / "bin" / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("REFLUX_WORKER_KEY", "a-secret-of-the-worker")
    surroundings._looked_for.cache_clear()
    script = "echo $REFLUX_OUTPUTS; echo done > $REFLUX_OUTPUTS/x"
    hand = task(tmp_path, "pass", command=["/bin/sh", "-c", script], container="r/forecast:1", environment={"MODE": "quick"})
    folder = job.run_job(hand).outputs_path
    surroundings._looked_for.cache_clear()
    assert hand.artifacts.get(f"{folder}/x") == b"done\n"
    info, run, removed = (tmp_path / "calls").read_text().splitlines()
    assert (info, removed) == ("info", "rm -f reflux-r1-1")
    for wanted in ("--name reflux-r1-1", "--cap-drop ALL", "no-new-privileges", "--env MODE=quick", "r/forecast:1 /bin/sh -c"):
        assert wanted in run
    assert "a-secret-of-the-worker" not in run


@pytest.mark.parametrize("uri", ["file://{}/nowhere", "file://{}/empty"])
def test_inputs_that_are_not_there_end_it(tmp_path: Path, uri: str) -> None:
    (tmp_path / "empty").mkdir()
    error = failing(task(tmp_path, "pass", inputs_uri=uri.format(tmp_path)))
    assert error.code == "no_inputs"
    assert not (tmp_path / "nowhere").exists()


def test_results_that_were_stored_are_not_made_again(tmp_path: Path) -> None:
    script = "import os; open(os.environ['REFLUX_OUTPUTS'] + '/x', 'a').write('once')"
    first = job.run_job(task(tmp_path, script))
    second = job.run_job(task(tmp_path, "raise SystemExit(1)", attempt=2))
    assert second.outputs_path == first.outputs_path


class Refusing(Artifacts):
    """A store that throttles the first puts below the outputs, then takes them; or refuses them for good."""

    refusals = 2
    error: type[RefluxError] = Retriable

    def put_file(self, path: str, file: Path) -> None:
        if "/outputs/" in path and self.refusals:
            self.refusals -= 1
            raise self.error("s3_throttled" if self.error is Retriable else "access_denied", "slow down")
        super().put_file(path, file)


def test_results_wait_for_a_store_that_is_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr("services.gpu_trainer.sync.Sync._rest", lambda _, seconds: waits.append(seconds))
    hand = task(tmp_path, "import os; open(os.environ['REFLUX_OUTPUTS'] + '/x', 'w').write('x')")
    hand.artifacts = Refusing(hand.artifacts.url)
    hand.artifacts.refusals = 5
    assert job.run_job(hand).outputs_path
    assert waits == [5, 15, 45, 45, 45], "by the table, then as before"


def test_results_that_no_store_takes_stay_where_they_are(tmp_path: Path, scratch: Path) -> None:
    hand = task(tmp_path, "import os; open(os.environ['REFLUX_OUTPUTS'] + '/x', 'w').write('x')")
    hand.artifacts = Refusing(hand.artifacts.url)
    hand.artifacts.refusals, hand.artifacts.error = 99, Terminal
    error = failing(hand)
    assert error.code == "results_not_stored"
    [kept] = scratch.glob("*/outputs/x")
    assert str(kept.parent) in error.message


def test_a_flood_of_lines_is_whole_in_the_file_alone(tmp_path: Path) -> None:
    began = time.monotonic()
    hand = task(tmp_path, "for n in range(20000): print('line', n)\nraise SystemExit(1)")
    failing(hand)
    told = hand.drain()["logs"]
    assert len(told) < 700 + 20 * (time.monotonic() - began)
    assert any("lines are only in the log file" in line["line"] for line in told)
    assert hand.artifacts.get("runs/r1/logs/run_job-1.log").count(b"\n") == 20000


def test_binary_output_and_endless_lines_do_no_harm(tmp_path: Path) -> None:
    script = """
        import sys
        sys.stdout.buffer.write(bytes(range(256)) * 50 + b"x" * 300_000)
        print()
        print("\\r 10%\\r 20%")
        sys.exit(1)
    """
    hand = task(tmp_path, script)
    failing(hand)
    lines = [line["line"] for line in hand.drain()["logs"]]
    assert " 20%" in lines, "what a progress bar wrote last"
    assert not any("\0" in line for line in lines), "no database takes it"
    assert max(map(len, lines)) <= 2000


@pytest.mark.parametrize(
    "told",
    ['{"metrics": {"loss": NaN}}', '{"progress": [1, Infinity]}', '{"facts": {"a": "\\u0000"}}', '{"facts": {"a": NaN}}', "[]"],
)
def test_what_can_not_be_told_is_a_line_like_any_other(tmp_path: Path, told: str) -> None:
    hand = task(tmp_path, f"print(r'::reflux {told}'); raise SystemExit(1)")
    failing(hand)
    report = hand.drain()
    assert f"::reflux {told}" in [line["line"] for line in report["logs"]]
    assert report["metrics"] == []
    json.dumps(report, allow_nan=False)
