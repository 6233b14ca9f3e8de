"""Which environment variables the code reads."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def variables_read() -> set[str]:
    """What the code asks the environment for, and NAME and NAME_FILE of every secret."""
    files = [*(ROOT / "reflux").rglob("*.py"), *(ROOT / "services").rglob("*.py")]
    code = "\n".join(path.read_text(encoding="utf-8") for path in files)
    plain = re.findall(r"""environ(?:\.get\(|\[)"(\w+)\"""", code)
    secret = re.findall(r"""\b(?:secret|_needed)\("(\w+)"\)""", code)
    return {*plain, *secret, *(f"{name}_FILE" for name in secret)}
