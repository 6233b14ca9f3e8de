"""Which servers a spec may have asked: whoever submits one decides what is posted where, from inside the network."""

import os
import re
from fnmatch import fnmatchcase
from ipaddress import ip_address

from reflux.errors import Terminal

# No user, and nothing that two parsers could read in two ways
URL = re.compile(r"https?://(\[[0-9a-f:.]+\]|[0-9a-z][0-9a-z._-]*)(:\d{1,5})?(/[^\s\\@]*)?", re.IGNORECASE)


def check(url: str) -> None:
    """Terminal unless it is a URL of this machine, or of a server that the operator has named."""
    found = URL.fullmatch(url)
    if found is None:
        hint = "teacher.endpoint_url starts with http:// or https://, and holds no user; openai: it ends with /v1."
        raise Terminal("invalid_spec", f"{url} is no URL", hint)
    host, port = found[1].lower(), found[2] or ""
    named = [name.strip().lower() for name in os.environ.get("REFLUX_TEACHER_ENDPOINTS", "").split(",")]
    if not _is_here(host) and not any(fnmatchcase(host, name) or host + port == name for name in named):
        raise Terminal(
            "invalid_spec",
            f"The teacher workers may not ask {host}{port}",
            f"Let the operator name {host} in REFLUX_TEACHER_ENDPOINTS of the teacher workers, or correct teacher.endpoint_url.",
        )


def _is_here(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
