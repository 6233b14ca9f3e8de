"""A provider for tests: moto's EC2 over real HTTP, behind a small door that adds what moto leaves out.

The door keeps client tokens (the same token gives the same instance), refuses calls on demand by the provider's own codes, and
counts them. `boots`, if it is set, is started with an instance's user data when it is made, and killed when that is terminated;
if it ends by itself, so does the instance.
"""

import base64
import re
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

import boto3
import httpx
from moto.core import DEFAULT_ACCOUNT_ID as ACCOUNT_ID
from moto.ec2 import ec2_backends
from moto.server import ThreadedMotoServer

REGION, IMAGE = "eu-central-1", "ami-12c6146b"
ERROR = """<?xml version="1.0"?><Response><Errors><Error><Code>{code}</Code><Message>{message}</Message></Error></Errors>
<RequestID>r</RequestID></Response>"""


@dataclass
class Refusal:
    """`code` for the next `times` calls of an action; `after`: it is carried out, but the caller does not hear so."""

    code: str
    message: str = "as the test wants it"
    times: int = 1
    status: int = 400
    after: bool = False


@dataclass
class Cloud:
    url: str
    moto: str
    calls: Counter[str] = field(default_factory=Counter)
    refusals: dict[str, Refusal] = field(default_factory=dict)
    made: dict[str, bytes] = field(default_factory=dict)  # the answer by its client token,
    asked: dict[str, str | None] = field(default_factory=dict)  # and the user data that it was asked for with
    boots: Callable[[str], "subprocess.Popen[bytes]"] | None = None
    processes: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)
    impaired: set[str] = field(default_factory=set)
    slow: bool = False  # what is terminated is still shown as shutting down
    lock: threading.Lock = field(default_factory=threading.Lock)
    http: httpx.Client = field(default_factory=lambda: httpx.Client(timeout=60))

    def refuse(self, action: str, code: str, **how: Any) -> None:
        self.refusals[action] = Refusal(code, **how)

    def ec2(self, region: str = REGION) -> Any:
        """A client that does not go through the door."""
        return boto3.client("ec2", region_name=region, endpoint_url=self.moto, **KEYS)

    def states(self) -> dict[str, str]:
        reservations = self.ec2().describe_instances()["Reservations"]
        return {i["InstanceId"]: i["State"]["Name"] for r in reservations for i in r["Instances"]}

    def answer(self, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
        asked = {name: values[0] for name, values in parse_qs(body.decode()).items()}
        action, token = asked["Action"], asked.get("ClientToken")
        with self.lock:
            self.calls[action] += 1
            refusal = self.refusals.get(action)
            if refusal and refusal.times:
                refusal.times -= 1
                if refusal.after:
                    self._carry_out(action, token, asked, body, headers)
                return refusal.status, ERROR.format(code=refusal.code, message=refusal.message).encode()
            return self._carry_out(action, token, asked, body, headers)

    def _carry_out(
        self, action: str, token: str | None, asked: dict[str, str], body: bytes, headers: dict[str, str]
    ) -> tuple[int, bytes]:
        if token and token in self.made:
            if self.states()[_instance(self.made[token])] == "terminated":
                code = "IdempotentInstanceTerminated"
                return 400, ERROR.format(code=code, message="The instance of this client token was terminated").encode()
            if self.asked[token] != asked.get("UserData"):
                code = "IdempotentParameterMismatch"
                return 400, ERROR.format(code=code, message="The client token was used with other parameters").encode()
            return 200, self.made[token]
        response = self.http.post(self.moto, content=body, headers=headers)
        if response.status_code == 200 and action == "RunInstances":
            if token:
                self.made[token], self.asked[token] = response.content, asked.get("UserData")
            if self.boots:
                process = self.boots(base64.b64decode(asked["UserData"]).decode())
                instance = _instance(response.content)
                self.processes[instance] = process
                threading.Thread(target=self._shut_down_after, args=(instance, process), daemon=True).start()
        if response.status_code == 200 and action == "DescribeInstanceStatus" and asked.get("InstanceId.1") in self.impaired:
            return 200, response.content.replace(b"<status>ok</status>", b"<status>impaired</status>")
        if action == "DescribeInstances" and self.slow:
            shown = response.content.replace(b"<name>terminated</name>", b"<name>shutting-down</name>")
            return 200, shown.replace(b"<code>48</code>", b"<code>32</code>")
        if response.status_code == 200 and action == "TerminateInstances":
            for name, value in asked.items():
                if name.startswith("InstanceId.") and value in self.processes:
                    self.kill(value)
        return response.status_code, response.content

    def kill(self, instance: str) -> None:
        """At once, as when its power is cut."""
        process = self.processes.pop(instance, None)
        if process:
            process.kill()
            process.wait()

    def take_back(self, instance: str) -> None:
        """What becomes of a spot machine, with a notice or without."""
        self.terminate(instance)
        reason = ec2_backends[ACCOUNT_ID][REGION].get_instance(instance).state_reason
        reason.code, reason.message = "Server.SpotInstanceTermination", "Spot instance termination"

    def terminate(self, instance: str) -> None:
        """By somebody else's hand: behind the back of whoever asked for it."""
        self.ec2().terminate_instances(InstanceIds=[instance])
        self.kill(instance)

    def _shut_down_after(self, instance: str, process: "subprocess.Popen[bytes]") -> None:
        process.wait()
        if self.processes.pop(instance, None):
            self.ec2().terminate_instances(InstanceIds=[instance])


def _instance(response: bytes) -> str:
    [instance] = re.findall(r"<instanceId>(i-\w+)</instanceId>", response.decode())
    return str(instance)


KEYS = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}


@contextmanager
def cloud() -> Iterator[Cloud]:
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    host, port = moto.get_host_and_port()
    there = Cloud("", f"http://{host}:{port}")

    class Door(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            kept = {k: v for k, v in self.headers.items() if k.lower() not in ("host", "content-length")}
            status, answer = there.answer(body, kept)
            self.send_response(status)
            self.send_header("Content-Type", "text/xml")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            """Nothing is printed."""

    door = ThreadingHTTPServer(("127.0.0.1", 0), Door)
    there.url = f"http://127.0.0.1:{door.server_port}"
    serving = threading.Thread(target=door.serve_forever, daemon=True)
    serving.start()
    try:
        yield there
    finally:
        for instance in list(there.processes):
            there.kill(instance)
        door.shutdown()
        door.server_close()
        there.http.close()
        moto.stop()
