"""Keys and passwords where none belong: in a spec, a label, a line of a log. Known by their forms, so code and hashes pass."""

import re
from collections.abc import Iterator
from typing import Any

BLOT = "[REDACTED]"
FORMS = re.compile(
    r"rfx_[\w-]{20,}"  # Reflux' own
    r"|(?<![A-Za-z0-9])(?:AKIA|ASIA)[A-Z0-9]{16}(?![A-Za-z0-9])"
    r"|(?<![A-Za-z0-9])(?:sk|rk)-(?:ant-|proj-)?[\w-]{20,}"
    r"|hf_[A-Za-z0-9]{30,}|gh[pousr]_[A-Za-z0-9]{36,}|xox[abprs]-[\w-]{10,}"
    r"|(?<=://)[^\s:/@]+:[^\s/@]+(?=@)"  # a URL's user and password
    r"|(?<=earer )[\w.~+/-]{20,}=*"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----[^-]*(?:-----END [A-Z ]*PRIVATE KEY-----)?"
)


def redacted(text: str) -> str:
    return FORMS.sub(BLOT, text)


def cleaned(value: Any) -> Any:
    """Plain data with every text in it redacted."""
    if isinstance(value, str):
        return redacted(value)
    if isinstance(value, dict):
        return {cleaned(name): cleaned(inner) for name, inner in value.items()}
    return [cleaned(inner) for inner in value] if isinstance(value, list | tuple) else value


def places(value: Any, path: str = "") -> Iterator[str]:
    """The dotted paths of the texts in plain data that hold a secret."""
    if isinstance(value, str) and FORMS.search(value):
        yield path
    elif isinstance(value, dict):
        for name, inner in value.items():
            where = f"{path}.{name}".lstrip(".")
            yield from (path or "the spec",) if FORMS.search(str(name)) else places(inner, where)
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield from places(inner, f"{path}.{number}".lstrip("."))
