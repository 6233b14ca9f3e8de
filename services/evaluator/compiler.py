"""GCC over untrusted text: cc1 itself where the driver names it, in the sandbox, after a prelude of standard headers."""

import functools
import hashlib
import os
import re
import shlex
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from services.evaluator import jail
from services.evaluator.extract_code import Language
from services.evaluator.sandbox import Limits, Outcome, Sandbox
from services.evaluator.source import Source, prepare

PRELUDE_C = ("errno.h", "inttypes.h", "limits.h", "stdbool.h", "stddef.h", "stdint.h", "stdio.h", "stdlib.h", "string.h")
PRELUDE_CXX = (*PRELUDE_C, "algorithm", "array", "memory", "string", "utility", "vector")

_DIAGNOSTIC = re.compile(
    r"^([^\s:][^:\n]*):(?:(\d+):)?(?:(\d+):)? (fatal error|error|warning): (.*?)(?: \[(-W[^\]]+)\])?$", re.MULTILINE
)
_MEMORY = re.compile(r"out of memory|memory exhausted|cannot allocate|std::bad_alloc")
_CRASH = re.compile(r"internal compiler error|Killed|CPU time limit")
_CLASH = re.compile(r"conflicting types|redefin|redeclar|two or more data types|cannot combine|expected identifier|reserved")
_PATH = re.compile(r"(?:/[\w.+-]+){2,}")


@dataclass(frozen=True)
class Dialect:
    """How a team compiles: standards, -D (NAME or NAME=value), folders of its own headers, further -W flags."""

    std_c: str = "c11"
    std_cxx: str = "c++17"
    defines: tuple[str, ...] = ()
    include_dirs: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def fingerprint(self) -> str:
        """Changes when a header of the team's changes."""
        files = [file for folder in self.include_dirs for file in sorted(Path(folder).rglob("*")) if file.is_file()]
        seen = "".join(f"{file}\0{file.stat().st_mtime_ns}\0{file.stat().st_size}\n" for file in files)
        return hashlib.sha256(seen.encode()).hexdigest()


@dataclass(frozen=True)
class Diagnostic:
    """Line and column are 1-based characters of the student's text; None in a header."""

    kind: Literal["error", "warning"]
    message: str
    flag: str
    line: int | None
    column: int | None


@dataclass(frozen=True)
class Report:
    """What the compiler said. `broke_off`: why it came to no end, in words."""

    diagnostics: tuple[Diagnostic, ...] = ()
    broke_off: str = ""

    @property
    def errors(self) -> list[Diagnostic]:
        return [item for item in self.diagnostics if item.kind == "error"]

    @property
    def warnings(self) -> list[Diagnostic]:
        return [item for item in self.diagnostics if item.kind == "warning"]


class Compiler:
    """gcc and g++ for one dialect, with a sandbox that shows them nothing but the system's headers and the dialect's."""

    def __init__(self, dialect: Dialect | None = None, limits: Limits | None = None) -> None:
        self.dialect = dialect or Dialect()
        self.limits = limits or Limits()
        self.own_headers = frozenset(_headers(self.dialect.include_dirs))
        self.versions = {name: version(name) for name in ("gcc", "g++")}
        self._folder = tempfile.TemporaryDirectory(prefix="reflux-prelude-")
        _give_to_jail(self._folder.name)
        self._made: dict[Language, _Commands] = {}
        self._lock = threading.Lock()
        self.sandbox = Sandbox((self._folder.name, *self.dialect.include_dirs, *_homes()))

    def knows(self, language: Language) -> bool:
        return bool(self.versions["gcc" if language == "c" else "g++"])

    def command(self, language: Language) -> list[str]:
        """The compiler's call, for a text on its standard input."""
        return self._commands(language).compile

    def prepare(self, code: str, language: Language) -> Source:
        return prepare(code, language, self.own_headers)

    def check(self, source: Source, language: Language) -> Report:
        """Compile; where the prelude itself clashes with the student's own definitions, once more without it."""
        report = self._check(source, language, prelude=True)
        if any(_CLASH.search(error.message) for error in report.errors):
            bare = self._check(source, language, prelude=False)
            if not bare.broke_off and len(bare.errors) < len(report.errors):
                return bare
        return report

    def live_lines(self, source: Source, language: Language) -> frozenset[int] | None:
        """The lines that #if and its like leave in; None when the preprocessor came to no end."""
        outcome = self.sandbox.run(self._commands(language).preprocess, source.text.encode(errors="replace"), self.limits)
        return None if outcome.killed or outcome.status < 0 else _live(outcome.stdout.decode(errors="replace"))

    def close(self) -> None:
        self.sandbox.close()
        self._folder.cleanup()

    def _check(self, source: Source, language: Language, prelude: bool) -> Report:
        commands = self._commands(language)
        data = source.text.encode(errors="replace")
        outcome = self.sandbox.run(commands.compile if prelude else commands.compile_bare, data, self.limits)
        text = outcome.stderr.decode(errors="replace")
        broke_off = _why_broken(outcome, text, self.limits)
        found = [_diagnostic(match, source, data.split(b"\n")) for match in _DIAGNOSTIC.finditer(text)]
        refused = [Diagnostic("error", item.message, "", item.line, item.column) for item in source.uncounted]
        if outcome.status != 0 and not broke_off and not any(item.kind == "error" for item in found):
            broke_off = f"the compiler ended with status {outcome.status} without a message"
        return Report(tuple(sorted([*found, *refused], key=_position)), broke_off)

    def _commands(self, language: Language) -> "_Commands":
        with self._lock:
            if language not in self._made:
                self._made[language] = self._make_commands(language)
            return self._made[language]

    def _make_commands(self, language: Language) -> "_Commands":
        driver = shutil.which("gcc" if language == "c" else "g++") or ""
        name, headers = ("prelude.h", PRELUDE_C) if language == "c" else ("prelude.hpp", PRELUDE_CXX)
        prelude = f"{self._folder.name}/{name}"
        Path(prelude).write_text("".join(f"#include <{header}>\n" for header in headers))
        os.chmod(prelude, 0o644)
        flags = [*_flags(self.dialect, language), "-x", language]
        if language == "c":
            self._flatten(driver, flags, prelude)
        else:
            self._precompile(driver, [*flags[:-1], f"{language}-header"], prelude)
        return _Commands(
            _expanded([driver, "-fsyntax-only", *flags, "-include", prelude, "-"]),
            _expanded([driver, "-fsyntax-only", *flags, "-"]),
            _expanded([driver, "-E", "-fdirectives-only", *flags, "-include", prelude, "-"]),
        )

    def _flatten(self, driver: str, flags: list[str], prelude: str) -> None:
        """Make one file of C's few headers, macros included: read sooner than loaded precompiled."""
        outcome = self.sandbox.run([driver, "-E", "-dD", *flags, prelude], b"", replace(self.limits, processes=True))
        if outcome.status == 0 and not outcome.killed:
            Path(prelude).write_bytes(b"#pragma GCC system_header\n" + b"\n".join(_of_headers(outcome.stdout)) + b"\n")

    def _precompile(self, driver: str, flags: list[str], prelude: str) -> None:
        """Parse C++'s large headers once and for all. Where that fails the compiler reads them each time: only slower."""
        limits = Limits(cpu_seconds=30, wall_seconds=60, memory_mb=2048, file_mb=256, processes=True)
        builder = Sandbox((*self.dialect.include_dirs, *_homes()), writable=(self._folder.name,))
        argv = [driver, *flags, prelude, "-o", f"{prelude}.gch"]
        if builder.run(argv, b"", limits, self._folder.name).status != 0:
            Path(f"{prelude}.gch").unlink(missing_ok=True)
        builder.close()


@dataclass(frozen=True)
class _Commands:
    compile: list[str]
    compile_bare: list[str]
    preprocess: list[str]


@functools.cache
def version(tool: str) -> str:
    """`gcc 12.2.0`, or "" where there is none."""
    path = shutil.which(tool)
    if not path:
        return ""
    done = subprocess.run([path, "--version"], capture_output=True, text=True, check=False, env={"LC_ALL": "C"})
    number = re.search(r"\d+\.\d+(?:\.\d+)?$|\d+\.\d+(?:\.\d+)?", done.stdout.split("\n")[0])
    return f"{tool} {number[0]}" if done.returncode == 0 and number else ""


def _give_to_jail(folder: str) -> None:
    if os.getuid() == 0:
        os.chown(folder, jail.UNPRIVILEGED, jail.UNPRIVILEGED)
    os.chmod(folder, 0o755)  # noqa: S103 another user, the jail's, must read it


def _flags(dialect: Dialect, language: Language) -> list[str]:
    return [
        *("-Wall", "-Wextra", *dialect.warnings),
        f"-std={dialect.std_c if language == 'c' else dialect.std_cxx}",
        *(f"-D{define}" for define in dialect.defines),
        *(part for folder in dialect.include_dirs for part in ("-isystem", folder)),
        *("-fmax-errors=20", "-fdiagnostics-color=never", "-fdiagnostics-column-unit=byte"),
        *("-fno-diagnostics-show-caret", "-fno-diagnostics-show-line-numbers"),
    ]


def _expanded(argv: list[str]) -> list[str]:
    """The call of cc1 that the driver itself would make, by its own answer; else the driver's call as it is."""
    done = subprocess.run([argv[0], "-###", *argv[1:]], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    calls = [line for line in done.stderr.splitlines() if re.match(r' "?/\S*/cc1(plus)?"? ', line)]
    return shlex.split(calls[0]) if len(calls) == 1 else argv


def _homes() -> list[str]:
    """Where the compilers live, when that is not below the system's usual folders."""
    drivers = [path for path in (shutil.which("gcc"), shutil.which("g++")) if path]
    homes = {str(Path(path).resolve().parents[1]) for path in drivers}
    return sorted(home for home in homes if home not in ("/", "/usr"))


def _headers(folders: tuple[str, ...]) -> list[str]:
    """Every file below the folders, as an #include names it."""
    return [str(file.relative_to(folder)) for folder in folders for file in Path(folder).rglob("*") if file.is_file()]


def _diagnostic(match: re.Match[str], source: Source, lines: list[bytes]) -> Diagnostic:
    file, line_text, column_text, said, message, flag = match.groups()
    kind: Literal["error", "warning"] = "warning" if said == "warning" else "error"
    if file != "<stdin>" or not line_text:
        where = f"in {os.path.basename(file)}: " if file != "<stdin>" else ""
        return Diagnostic(kind, where + _clean(message), flag or "", None, None)
    line, column = int(line_text), int(column_text or 1)
    if line in source.marked and message.startswith("#error"):
        finding = source.marked[line]
        return Diagnostic("error", finding.message, "", finding.line, finding.column)
    before = lines[line - 1][: column - 1] if line <= len(lines) else b""
    return Diagnostic(kind, _clean(message), flag or "", line, len(before.decode(errors="replace")) + 1)


def _clean(message: str) -> str:
    """Cut to a length that a person reads, and without paths of the machine."""
    return _PATH.sub(lambda match: match[0].rsplit("/", 1)[1], message)[:300]


def _position(item: Diagnostic) -> tuple[int, int]:
    return item.line or 0, item.column or 0


def _why_broken(outcome: Outcome, text: str, limits: Limits) -> str:
    if outcome.killed == "time":
        return f"the compiler came to no end within {limits.cpu_seconds} s of CPU time"
    if outcome.killed == "output":
        return f"the compiler wrote more than {limits.output_bytes // 1024} KB of messages"
    if outcome.killed == "jail":
        return "the sandbox was killed from outside, twice"
    if _MEMORY.search(text):
        return f"the compiler needed more than its {limits.memory_mb} MB of memory"
    if outcome.status < 0 or _CRASH.search(text):
        return "the compiler itself crashed on this text"
    return ""


def _of_headers(preprocessed: bytes) -> Iterator[bytes]:
    """The lines that stand in a header, without what the compiler defines by itself."""
    inside = False
    for line in preprocessed.split(b"\n"):
        marker = re.match(rb'# \d+ "(<?)', line)
        if marker:
            inside = not marker[1]
        elif inside and line.strip():
            yield line


def _live(preprocessed: str) -> frozenset[int]:
    """Numbers of the student's lines that are not empty in the preprocessor's output; conditionals themselves are."""
    live = set[int]()
    number, inside = 1, False
    for line in preprocessed.split("\n"):
        marker = re.match(r'# (\d+) "([^"]*)"', line)
        if marker:
            number, inside = int(marker[1]), marker[2] == "<stdin>"
            continue
        if inside and line.strip():
            live.add(number)
        number += 1
    return frozenset(live)
