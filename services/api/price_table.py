"""The deployment's own prices of teachers: a YAML file, `model: {input: 3, output: 15}`, in USD for a million tokens."""

from pathlib import Path

import yaml
from pydantic import TypeAdapter

from reflux.prices import PRICES, Price, Table


def read(path: Path) -> Table:
    """The table of the file before that of reflux/prices.py. ValueError, OSError if it can't be used."""
    try:
        own = TypeAdapter(dict[str, Price]).validate_python(yaml.safe_load(path.read_text(encoding="utf-8")) or {})
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    return {**PRICES, **own}
