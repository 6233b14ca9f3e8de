"""Print what pyproject.toml wants for the named extras, one requirement a line: `requirements.py api teacher`.

An image installs these before it sees any source, so that a changed source file does not install them again.
"""

import sys
import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
wanted = [*project["dependencies"], *(line for extra in sys.argv[1:] for line in project["optional-dependencies"][extra])]
sys.stdout.writelines(f"{line}\n" for line in wanted)
