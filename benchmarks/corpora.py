"""Functions found in real sources, beside what universal-ctags finds in them: a row for each folder below FOLDER."""

import argparse
import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from services.teacher_worker.extract import functions, language_of  # noqa: E402 the path is set above
from services.teacher_worker.ingest import SUFFIXES, decode  # noqa: E402

COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL)
EMPTY = re.compile(r"\{\s*\}[\s;]*$")
Names = Counter[tuple[str, str]]  # file and plain name


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=ROOT / "examples/automotive/corpus")
    parser.add_argument("--list", action="store_true", help="every function that one of both has and the other has not")
    options = parser.parse_args()
    if not shutil.which("ctags"):
        print("ctags is not installed (Debian: universal-ctags): there is nothing to compare with")
        return 0
    print(f"{'corpus':24} files  ctags  empty  macros  found  missed  extra")
    for corpus in sorted(path for path in options.folder.iterdir() if path.is_dir()):
        compare(corpus, options.list)
    return 0


def compare(corpus: Path, listed: bool) -> None:
    """`empty`: bodies without code; `macros`: names in capitals, of test cases mostly. Both are left out on purpose."""
    texts = dict(read(corpus))
    ours = Names((path, plain(found.name)) for path, text in texts.items() for found in functions(text, path))
    theirs, empty, macros = tags(corpus, texts)
    missed, extra = theirs - ours, ours - theirs - macros
    counts = (len(texts), theirs.total() + macros.total() + empty, empty, macros.total(), ours.total())
    print("{:24} {:5} {:6} {:6} {:7} {:6}".format(corpus.name, *counts), f"{missed.total():7} {extra.total():6}")
    for words, names in (("missed", missed), ("extra", extra)):
        for (path, name), count in sorted(names.items()) if listed else ():
            print(f"  {words} {path} {name}" + (f" ({count} times)" if count > 1 else ""))


def read(corpus: Path) -> list[tuple[str, str]]:
    files = (path for path in sorted(corpus.rglob("*")) if path.suffix.lower() in SUFFIXES and path.is_file())
    texts = ((str(path.relative_to(corpus)), decode(path.read_bytes())) for path in files)
    return [(path, text) for path, text in texts if text is not None]


def tags(corpus: Path, texts: dict[str, str]) -> tuple[Names, int, Names]:
    """What ctags finds, but lambdas: functions, how many empty ones, and macros that look like functions."""
    found, macros, empty = Names(), Names(), 0
    for language, flag in (("c", "C"), ("cpp", "C++")):
        paths = [path for path, text in texts.items() if language_of(text, path) == language]
        command = ["ctags", "--output-format=json", "--fields=+ne", f"--kinds-{flag}=f", f"--language-force={flag}"]
        lines = subprocess.run(
            [*command, "-f", "-", "-L", "-"], input="\n".join(paths), cwd=corpus, capture_output=True, text=True, check=True
        ).stdout.splitlines()
        for tag in map(json.loads, lines if paths else ()):
            name, path = plain(tag["name"]), tag["path"]
            if name.startswith("__anon"):
                continue
            body = "\n".join(texts[path].split("\n")[tag["line"] - 1 : tag.get("end", 0)])
            if EMPTY.search(COMMENT.sub("", body)):
                empty += 1
            elif name.isupper():
                macros[path, name] += 1
            else:
                found[path, name] += 1
    return found, empty, macros


def plain(name: str) -> str:
    return name.rsplit("::", maxsplit=1)[-1].replace(" ", "")


if __name__ == "__main__":
    sys.exit(main())
