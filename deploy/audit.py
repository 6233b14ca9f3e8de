"""Whether a pinned package has a known vulnerability: pip-audit over constraints.txt, and what it could not find out.

pip-audit is content with packages of which it learnt nothing. Here that is said, and is no success: the exit code is 1 for
vulnerabilities, 2 where the database knows none of the packages or can't be reached. `--unreachable-is-told` makes 0 of 2, for
machines that are cut off. All other arguments go to pip-audit (`--ignore-vuln ID`, `--vulnerability-service osv`).
"""

import json
import subprocess
import sys
from typing import Any

PINNED = ["--requirement", "constraints.txt"]
ALWAYS = ["--no-deps", "--disable-pip", "--format", "json", "--progress-spinner", "off"]


def main() -> int:
    arguments = [word for word in sys.argv[1:] if word != "--unreachable-is-told"]
    sources = [] if {"-r", "--requirement"} & set(arguments) else PINNED
    command = [sys.executable, "-m", "pip_audit", *sources, *ALWAYS, *arguments]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        packages = json.loads(made.stdout)["dependencies"]
    except (ValueError, KeyError):
        packages = []
    lines, code = verdict(packages, made.stderr.strip().splitlines()[-1:])
    sys.stdout.writelines(f"audit: {line}\n" for line in lines)
    return 0 if code == 2 and "--unreachable-is-told" in sys.argv else code


def verdict(packages: list[dict[str, Any]], said: list[str]) -> tuple[list[str], int]:
    """What to tell of pip-audit's packages and of its last words, and the exit code."""
    unknown = [package["name"] for package in packages if "skip_reason" in package]
    found = [(package, hole) for package in packages for hole in package.get("vulns", ())]
    known = len(packages) - len(unknown)
    if not known:
        why = [package["skip_reason"] for package in packages[:1]] or said
        return [
            "NOTHING WAS AUDITED: the database of vulnerabilities gave no answer.",
            *why,
            "Run `make audit` where it can be reached.",
        ], 2
    lines = [
        f"{package['name']} {package['version']}: {hole['id']}, mended in {', '.join(hole['fix_versions']) or 'no version yet'}"
        for package, hole in found
    ]
    lines += [f"not known to the database, so not audited: {', '.join(unknown)}"] if unknown else []
    return [*lines, f"{known} packages audited, {len(found)} known vulnerabilities"], 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
