"""A spot machine's notice that its provider takes it back, some two minutes before it does.

IMDSv2: a token by PUT, and with it GET /latest/meta-data/spot/instance-action: 404 until there is a notice.
"""

import os
import signal
import threading

import httpx
import structlog

from reflux.machines import Interruption
from reflux.secret import secret

log = structlog.get_logger()

ENDPOINT = "http://169.254.169.254"  # or AWS_EC2_METADATA_SERVICE_ENDPOINT, as for AWS' own tools
EVERY_SECONDS = 5.0
TOKEN_SECONDS = 6 * 3600


def watch() -> None:
    """In a thread that dies with the process, on a spot machine. A notice ends the process as SIGTERM does."""
    if os.environ.get("REFLUX_SPOT") == "1":
        threading.Thread(target=_watch, name="spot", daemon=True).start()


def _watch() -> None:
    rest = threading.Event()
    endpoint = os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT") or ENDPOINT
    with httpx.Client(base_url=endpoint, timeout=2, trust_env=False) as metadata:
        token, notice = "", None
        while notice is None:
            try:
                token, notice = look(metadata, token)
            except (httpx.HTTPError, ValueError) as error:
                log.warning("notice_not_looked_for", error=str(error)[:200])
            if notice is None:
                rest.wait(EVERY_SECONDS)
    log.warning("spot_interruption", action=notice.action, at=notice.time)
    heard = _told(notice)
    os.kill(os.getpid(), signal.SIGTERM)
    while not heard:
        rest.wait(1)
        heard = _told(notice)


def look(metadata: httpx.Client, token: str) -> tuple[str, Interruption | None]:
    """The token to ask with next, and the notice, once there is one. httpx's errors and ValueError are raised."""
    if not token:
        lasting = {"X-aws-ec2-metadata-token-ttl-seconds": str(TOKEN_SECONDS)}
        token = metadata.put("/latest/api/token", headers=lasting).raise_for_status().text
    answer = metadata.get("/latest/meta-data/spot/instance-action", headers={"X-aws-ec2-metadata-token": token})
    if answer.status_code == 401:
        return "", None
    if answer.status_code == 404:
        return token, None
    return token, Interruption.model_validate_json(answer.raise_for_status().content)


def _told(notice: Interruption) -> bool:
    """Whether the API has heard of it, or does not want to."""
    headers = {"Authorization": f"Bearer {secret('REFLUX_WORKER_KEY')}"}
    try:
        url = f"{os.environ['REFLUX_API_URL']}/v1/resources/interrupted"
        return httpx.post(url, json=notice.model_dump(), headers=headers, timeout=5).status_code < 500
    except httpx.HTTPError as error:
        log.warning("notice_unheard", error=str(error)[:200])
        return False
