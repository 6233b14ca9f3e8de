"""The embedded stack: the same processes as in production, started, watched and stopped by one supervisor.

Nothing in the product knows that it is embedded: only URLs differ. State lives in one folder; the next start goes on.
"""

import json
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from reflux.local import servers

STOP_SECONDS = 30.0


@dataclass
class Process:
    """One process of the stack. Whatever ends by itself is started again."""

    name: str
    command: list[str]
    env: dict[str, str]
    stop_signal: signal.Signals = signal.SIGTERM
    popen: subprocess.Popen[bytes] | None = None
    starts: int = 0
    started_at: float = 0.0


@dataclass
class Stack:
    """`with Stack(folder) as stack:` has everything running. `workers` is how many of each service are started."""

    folder: Path
    teacher_answers: tuple[Path, ...] = ()
    workers: dict[str, int] = field(default_factory=lambda: {"teacher_worker": 1, "evaluator": 1, "gpu_trainer": 1})
    durable: bool = True
    env: dict[str, str] = field(default_factory=dict)
    tell: Callable[[str], None] = lambda _: None
    processes: dict[str, Process] = field(default_factory=dict)
    ports: dict[str, int] = field(default_factory=dict)

    def __enter__(self) -> "Stack":
        self.folder = self.folder.resolve()
        (self.folder / "logs").mkdir(parents=True, exist_ok=True)
        self._closing = threading.Event()
        self._lock = threading.RLock()
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        self._watcher = threading.Thread(target=self._watch, name="supervisor", daemon=True)
        self._watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop everything: workers first, so that they can hand back, the servers last."""
        self._closing.set()
        for name in reversed(list(self.processes)):
            self.stop(name)
        (self.folder / "stack.json").unlink(missing_ok=True)

    # What tests and commands use

    @property
    def api_url(self) -> str:
        return f"http://127.0.0.1:{self.ports['api']}"

    @property
    def artifacts_url(self) -> str:
        return self.env.get("REFLUX_ARTIFACTS_URL", f"file://{self.folder / 'artifacts'}")

    def pid(self, name: str) -> int:
        popen = self.processes[name].popen
        if popen is None:
            raise KeyError(f"{name} is not running")
        return popen.pid

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        os.kill(self.pid(name), number)

    def stop(self, name: str) -> None:
        process = self.processes[name]
        popen, process.popen = process.popen, None
        if popen is None or popen.poll() is not None:
            return
        popen.send_signal(process.stop_signal)
        try:
            popen.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            popen.kill()
            popen.wait()

    def start(self, name: str) -> None:
        process = self.processes[name]
        with (self.folder / "logs" / f"{name}.log").open("ab") as log:
            process.popen = subprocess.Popen(
                servers.dying_with_parent(process.command, process.stop_signal),
                env=process.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                start_new_session=True,
            )
        process.starts += 1
        process.started_at = time.monotonic()

    # Starting

    def _start(self) -> None:
        self.started_at = datetime.now(UTC).isoformat()
        self.ports = {name: servers.free_port() for name in ("postgres", "valkey", "api", "teacher")}
        self.keys = self._keys()
        self._start_postgres()
        self._start_valkey()
        env = self.environment()
        for name, command in self.commands().items():
            service = name.split("-")[0]
            named = {"REFLUX_WORKER_NAME": f"{name}@{self.folder}"} if service in self.workers else {}
            self._add(name, command, env | named)
            if name == "api":
                self._wait_for_api()
        self._wait_for_workers()
        self._write_state()

    def commands(self) -> dict[str, list[str]]:
        """The product's own processes, as they run anywhere; `ports` say where."""
        commands = {}
        if self.teacher_answers:
            answers = [part for path in self.teacher_answers for part in ("--answers", str(path.resolve()))]
            port = ["--port", str(self.ports["teacher"])]
            commands["teacher"] = [sys.executable, "-m", "reflux.local.recorded_teacher", *answers, *port]
        api = [sys.executable, "-m", "uvicorn", "--factory", "services.api.app:make_app", "--no-access-log"]
        commands["api"] = [*api, "--host", "127.0.0.1", "--port", str(self.ports["api"])]
        commands["control"] = [sys.executable, "-m", "services.api.control"]
        for service, count in self.workers.items():
            for number in range(1, count + 1):
                commands[f"{service}-{number}"] = [sys.executable, "-m", f"services.{service}"]
        return commands

    def _start_postgres(self) -> None:
        data = self.folder / "postgres"
        initdb, server, programs = servers.postgres_commands(data, self.ports["postgres"], durable=self.durable)
        self.tell("PostgreSQL")
        servers.make_cluster(data, initdb)
        (data / "postmaster.pid").unlink(missing_ok=True)
        wrap = servers.unprivileged(data)
        self._add("postgres", [*wrap, *servers.dying_with_parent(server, signal.SIGINT)], servers.clean_env(), signal.SIGINT)
        servers.wait_for_postgres(programs, self.ports["postgres"])
        create = ["createdb", "-h", "127.0.0.1", "-p", str(self.ports["postgres"]), "-U", "postgres", "reflux"]
        subprocess.run([str(programs / create[0]), *create[1:]], env=servers.clean_env(), capture_output=True, check=False)

    def _start_valkey(self) -> None:
        self.tell("Valkey")
        data = self.folder / "valkey"
        data.mkdir(exist_ok=True)
        self._add("valkey", servers.valkey_command(data, self.ports["valkey"]), servers.clean_env())

    def environment(self) -> dict[str, str]:
        """What the product's own processes are told; `ports` say where the servers are."""
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("REFLUX_") or k == "REFLUX_TEACHER_ENDPOINTS"}
        (self.folder / "artifacts").mkdir(exist_ok=True)
        teacher = {"REFLUX_TEACHER_URL": f"http://127.0.0.1:{self.ports['teacher']}"} if self.teacher_answers else {}
        return (
            inherited
            | {
                "PYTHONPATH": os.pathsep.join(p for p in (str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")) if p),
                "PYTHONUNBUFFERED": "1",
                "REFLUX_API_URL": self.api_url,
                "REFLUX_ARTIFACTS_URL": self.artifacts_url,
                "REFLUX_JOBS": "1",  # whoever has this stack's key is its user, who may run anything here anyway
                "REFLUX_BROKER_URL": f"redis://127.0.0.1:{self.ports['valkey']}/0",
                "REFLUX_DATABASE_URL": f"postgresql+psycopg://postgres@127.0.0.1:{self.ports['postgres']}/reflux",
                "REFLUX_OPERATOR_KEY": self.keys["operator"],
                "REFLUX_WORKER_KEY": self.keys["worker"],
            }
            | teacher
            | self.env
        )

    def _keys(self) -> dict[str, str]:
        """Keys made at the first start, kept readable for this user alone."""
        file = self.folder / "keys.json"
        if not file.exists():
            keys = {role: f"rfx_{secrets.token_urlsafe(32)}" for role in ("operator", "worker")}
            with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as out:
                json.dump(keys, out)
        read: dict[str, str] = json.loads(file.read_text())
        return read

    def _wait_for_api(self) -> None:
        self.tell("the API")
        self._wait(lambda: httpx.get(f"{self.api_url}/readyz", timeout=5).status_code == 200, "api")

    def _wait_for_workers(self) -> None:
        """Until each has registered: a run that is created before would find no worker that can do it."""
        headers = {"Authorization": f"Bearer {self.keys['worker']}"}
        for name, process in self.processes.items():
            incarnated = process.env.get("REFLUX_WORKER_NAME")
            if incarnated is None:
                continue
            self.tell(name)

            def registered(worker: str = incarnated) -> bool:
                rows = httpx.get(f"{self.api_url}/v1/workers", headers=headers, timeout=5).json()
                return any(row["name"] == worker and row["registered_at"] >= self.started_at for row in rows)

            self._wait(registered, name)

    def _wait(self, there: Callable[[], bool], name: str, seconds: float = 300) -> None:
        until = time.monotonic() + seconds
        while True:
            try:
                if there():
                    return
            except httpx.HTTPError:
                pass
            if time.monotonic() > until:
                raise TimeoutError(f"{name} did not start within {seconds:g} s; see {self.folder / 'logs' / name}.log.")
            time.sleep(0.1)

    def _add(self, name: str, command: list[str], env: dict[str, str], stop: signal.Signals = signal.SIGTERM) -> None:
        self.processes[name] = Process(name, command, env, stop)
        self.start(name)

    def _write_state(self) -> None:
        """Where a CLI in another terminal finds this stack."""
        state: dict[str, Any] = {"api_url": self.api_url, "pid": os.getpid(), "ports": self.ports}
        state["processes"] = {name: p.popen.pid for name, p in self.processes.items() if p.popen}
        temporary = self.folder / "stack.tmp"
        temporary.write_text(json.dumps(state, indent=2))
        temporary.rename(self.folder / "stack.json")

    def _watch(self) -> None:
        """Start again whatever ended by itself; the third quick time in a row, wait longer."""
        while not self._closing.wait(0.2):
            for process in list(self.processes.values()):
                popen = process.popen
                if popen is None or popen.poll() is None:
                    continue
                quick = time.monotonic() - process.started_at < 10
                self._closing.wait(min(30.0, 0.5 * 2 ** min(process.starts, 6)) if quick else 0.2)
                if not self._closing.is_set() and process.popen is popen:
                    self.start(process.name)
                    self._write_state()
