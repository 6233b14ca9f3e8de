"""Hostile answers: each is compiled for real, gives a verdict that says what happened, and gets nothing out of the machine."""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.evaluator.compiler import Compiler
from services.evaluator.extract_code import Language
from services.evaluator.sandbox import Limits
from services.evaluator.score import Attempt, Scorer
from services.evaluator.source import Source

LIMITS = Limits(cpu_seconds=1, wall_seconds=5.0, memory_mb=400)
CANARY = "canary_4be1 stands in a file that no answer may see"
GOOD = "int twice(int x) { return 2 * x; }\n"

# Each reads, or asks for, the file @ in another spelling.
READERS = {
    "include quoted": '#include "@"\n',
    "include angled": "#include <@>\n",
    "include with spaces": '  #  \t include   "@"\n',
    "include after a comment": '/* x */ # /* y */ include /* z */ "@"\n',
    "include below a comment of two lines": '/* x\n*/ #include "@"\n',
    "digraph": '%:include "@"\n',
    "trigraph": '??=include "@"\n',
    "trigraph splice": '#inc??/\nlude "@"\n',
    "spliced": '#inc\\\nlude "@"\n',
    "spliced thrice": '#\\\ni\\\nnclude \\\n"@"\n',
    "spliced with blanks behind": '#inc\\  \nlude "@"\n',
    "spliced comment": '/\\\n* x *\\\n/ #include "@"\n',
    "by macro": '#define WHERE "@"\n#include WHERE\n',
    "by macro of tokens": "#define OPEN <\n#include OPEN @>\n",
    "include_next": '#include_next "@"\n',
    "import": '#import "@"\n',
    "embed": 'const char x[] = {\n#embed "@"\n};\n',
    "form feed": '\f#include\v"@"\n',
    "carriage returns": '#define A\r#include "@"\r',
    "after an open quote": 'char c = \'\n#include "@"\n',
    "after a quote in an error": '#error don\'t /*\n#include "@"\n// */\n',
    "climbing": '#include "/usr/include/../..@"\n',
    "proc root": '#include "/proc/self/root@"\n',
    "line directive": '#line 1 "@"\nint x = ;\n',
    "line marker": '# 1 "@" 1\nint x = ;\n',
    "has_include": '#if __has_include("@")\n#error it is there\n#endif\n',
    "has_include by macro": '#define ASK __has_include("@")\n#if ASK\n#error it is there\n#endif\n',
    "pragma dependency": '#pragma GCC dependency "@"\n',
    "pragma operator": '_Pragma("GCC dependency \\"@\\"")\n',
    "spliced by a pragma operator": '#\\_Pragma\ninclude "@"\n',
    "a quote behind a pragma operator": '_Pragma\'/*\n#include "@"\n',
    "behind a pragma operator": '_Pragma("once")#include "@"\n',
    "pch pragma": '#pragma GCC pch_preprocess "@"\n',
    "incbin": '__asm__(".incbin \\"@\\"");\n',
    "asm include": '__asm__(".include \\"@\\"");\n',
    "open raw string in C++": 'namespace a {}\nconst char *x = R"(;\n#include "@"\n',
    "raw string in a directive of C++": 'namespace a {}\n#define A R"(\n/* )" */ #include "@"\n',
    "raw string in C++": 'const char *x = R"(")"; /*)"*/\n#include "@"\nnamespace a {}\n',
}

# name: (text, words of the verdict)
BOMBS = {
    "dev zero": ('#include "/dev/zero"\n', "not among the headers"),
    "stdin again": ('#include "/dev/stdin"\n', "not among the headers"),
    "environ": ('#include "/proc/self/environ"\n', "not among the headers"),
    "itself": ("#include __FILE__\n", "not among the headers"),
    "macro bomb": (
        "#define A0 x+x\n"
        + "".join(f"#define A{i} A{i - 1}+A{i - 1}+A{i - 1}+A{i - 1}\n" for i in range(1, 16))
        + "int f(int x) { return A15; }\n",
        "no end|memory|crashed",
    ),
    "argument bomb": (
        "#define D(x) x x x x x x x x x x\n#define E(x) D(D(D(D(x))))\n#define F(x) E(E(x))\nint a = 1 F(+1);\n",
        "no end|memory|crashed",
    ),
    "paste bomb": (
        "#define P(a,b) a##b\n"
        + "".join(f"#define Q{i} P(Q{i - 1},Q{i - 1}) Q{i - 1} Q{i - 1}\n" for i in range(1, 24))
        + "#define Q0 y\nint x = Q23;\n",
        "no end|memory|crashed|undeclared|does not give",
    ),
    "initializer": ("int a[] = { [0 ... 1<<28] = 1 };\nint f(void) { return a[0]; }\n", "no end|memory|crashed|too large"),
    "giant array": (
        "char a[1ULL << 62];\nint f(void) { char b[1ULL << 61]; return sizeof b != a[0]; }\n",
        "too large|exceeds|base",
    ),
    "nested blocks": ("void f(void) {" + "{" * 40_000 + "}" * 40_000 + "}\n", "no end|memory|crashed|base"),
    "parentheses": ("int a = " + "(" * 45_000 + "1" + ")" * 45_000 + ";\n", "no end|memory|crashed|base"),
    "pointers": ("int " + "*" * 90_000 + "p;\n", "no end|memory|crashed|base"),
    "ifs": ("#if 1\n" * 12_000 + "int x;\n", "unterminated|no end|memory"),
    "million errors": ("".join(f"x{i};" for i in range(12_000)), "error|KB of messages"),
    "warning flood": (
        "#define W(x) int f##x(int a) { }\n" + "".join(f"W({i})\n" for i in range(8_000)),
        "warning|KB of messages|no end",
    ),
    "long line": ("int x = 1" + "+1" * 45_000 + ";\n", "no end|memory|crashed|base"),
    "ten megabytes": ("int x;\n" * 1_500_000, "characters of code"),
    "NUL bytes": ("int f(int x) { return x\0 + 1; }\n\0\0\0", "NUL"),
    "binary": ("".join(chr(i) for i in range(1, 256)) * 30, "error"),
    "surrogates": ("int x = '\ud800';\n", ""),
    "bidi": ("int f(int x) { /* \u202e } \u2066 if (x) */ return x + 1; }\n", ""),
    "plugin": ('#pragma GCC plugin "/tmp/evil.so"\nint f(int x) { return x + 1; }\n', "not passed on"),
    "system header": ("#pragma GCC system_header\nint f(int x) { int y; return x + 1; }\n", "switched off"),
    "poison": ("#pragma GCC poison f\nint f(int x) { return x + 1; }\n", "poison"),
    "constructor": ('__attribute__((constructor)) void f(void) { system("touch /tmp/owned"); fork(); }\n', ""),
    "vla of vlas": ("void f(int n) { int a[n][n][n][n][n][n][n][n]; a[0][0][0][0][0][0][0][0] = n; }\n", ""),
    "C++ templates": (
        "template <int N> struct F { static constexpr long v = F<N - 1>::v + F<N - 2>::v; struct G : F<N - 1> {}; };\n"
        "int x = F<800000>::v;\n",
        "template|memory|no end|crashed",
    ),
    "C++ doubling": (
        "template <class T, int N> struct B { B<B<T, N - 1>, N - 1> x; B<T*, N - 1> y; };\nB<int, 30> b;\n",
        "memory|no end|template|incomplete|output|error",
    ),
    "C++ constexpr": (
        "constexpr long f() { long s = 0; for (long i = 0; i < 1000000000000; ++i) s += i; return s; }\n"
        "static_assert(f() == 1, std::string());\n",
        "constexpr|no end|memory|error",
    ),
    "C++ overloads": ("using namespace std;\n" + "auto x = " + "[](auto a) { return " * 25 + "1" + "; }" * 25 + ";\n", ""),
}  # fmt: skip


@pytest.fixture(scope="module")
def compiler() -> Iterator[Compiler]:
    compiler = Compiler(limits=LIMITS)
    yield compiler
    compiler.close()


@pytest.fixture(scope="module")
def scorer(compiler: Compiler) -> Scorer:
    return Scorer(compiler=compiler)


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """A file that everybody may read, in a folder that everybody may pass through: only the sandbox stands before it."""
    for folder in (tmp_path, *tmp_path.parents):
        if folder.is_relative_to("/tmp") and folder != Path("/tmp"):
            folder.chmod(0o755)
    file = tmp_path / "canary.h"
    file.write_text(CANARY + "\n")
    file.chmod(0o644)
    return file


def test_there_are_enough_of_them() -> None:
    assert len(READERS) + len(BOMBS) >= 40


@pytest.mark.parametrize("name", READERS)
def test_no_spelling_reads_a_file(scorer: Scorer, canary: Path, name: str) -> None:
    """A canary that any reader could open: neither its words nor its being there is in the verdict."""
    text = READERS[name].replace("@", str(canary)) + GOOD
    verdict = scorer.score(Attempt(text, "Write a TSN gate.", "tsn"))
    said = " ".join(line.message for line in verdict.evidence)
    assert "canary_4be1" not in said
    assert "it is there" not in said
    assert "ermission denied" not in said, "the compiler itself was let near the file"
    assert verdict.evidence


@pytest.mark.parametrize("name", READERS)
def test_the_sandbox_alone_would_do(compiler: Compiler, canary: Path, name: str) -> None:
    """The same texts handed to the compiler as they are, past the filter."""
    text = READERS[name].replace("@", str(canary)) + GOOD
    report = compiler.check(Source(text), "c")
    assert "canary_4be1" not in repr(report)
    assert str(canary.parent) not in repr(report)


def test_outside_of_the_sandbox_the_canary_is_read(canary: Path) -> None:
    """What the two tests above would see if nothing stood in the way."""
    text = READERS["include quoted"].replace("@", str(canary)) + GOOD
    done = subprocess.run(["gcc", "-fsyntax-only", "-x", "c", "-"], input=text, capture_output=True, text=True, check=False)
    assert "canary_4be1" in done.stderr


@pytest.mark.parametrize("name", BOMBS)
def test_no_bomb_hurts(scorer: Scorer, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text, expected = BOMBS[name]
    monkeypatch.chdir(tmp_path)
    verdict = scorer.score(Attempt(text))
    said = " ".join(f"{line.rule} {line.message}" for line in verdict.evidence)
    assert re.search(expected, said), said[:400]
    assert not re.search(r"root:|/usr/|/tmp/reflux", said)
    assert len(verdict.model_dump_json(exclude={"code"})) < 40_000
    assert os.listdir(tmp_path) == []
    assert not Path("/tmp/owned").exists()
    assert 0 <= verdict.overall <= 10


@pytest.mark.parametrize("name", ["initializer", "macro bomb", "parentheses", "C++ templates"])
def test_memory_stays_within_the_limit(compiler: Compiler, name: str) -> None:
    language: Language = "c++" if "C++" in name else "c"
    argv = compiler.command(language)
    outcome = compiler.sandbox.run(argv, BOMBS[name][0].encode(), LIMITS)
    assert 0 < outcome.peak_kb <= LIMITS.memory_mb * 1024
    assert outcome.cpu_seconds < LIMITS.cpu_seconds + 1.5
    assert outcome.stdout == b""


def test_the_worker_goes_on_afterwards(scorer: Scorer) -> None:
    verdict = scorer.score(Attempt(GOOD))
    assert verdict.compiles
    assert verdict.syntax == 10
