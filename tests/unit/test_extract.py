"""Functions found in C and C++: what is taken along, what is dropped, what a broken file still gives."""

import pytest

from services.teacher_worker.examples import _brief, instruction, job
from services.teacher_worker.extract import Function, functions, language_of
from services.teacher_worker.flatten import flattened


def names(text: str, path: str = "a.c") -> list[str]:
    return [function.name for function in functions(text, path)]


def only(text: str, path: str = "a.c") -> Function:
    found = functions(text, path)
    assert len(found) == 1, found
    return found[0]


@pytest.mark.parametrize(
    ("text", "path", "expected"),
    [
        ("int f(int a) { return a; }", "a.c", ["f"]),
        ("static inline int f(void)\n{\n return 1;\n}", "a.c", ["f"]),
        ("static __attribute__((always_inline)) int f(int a) { return a; }", "a.c", ["f"]),
        ("int old(a, b) int a; char *b; { return a; }", "a.c", ["old"]),
        ("struct foo *find(void)\n{ return 0; }", "a.c", ["find"]),
        ("int (*pick(int x))(int) { return 0; }", "a.c", ["pick"]),
        ("static int __init start(void) { return go(); }", "a.c", ["start"]),
        ("#ifdef A\nint f(void) { return 1; }\n#else\nint f(void) { return 2; }\n#endif", "a.c", ["f", "f"]),
        ("int f(int a);\nint x = 3;\nstruct s { int a; };", "a.c", []),
        ("int f(void) {}\nint g(void) { /* nothing to do */ }", "a.c", []),
        ("TEST(gate, opens) { check(1); }\nint f(void) { return 1; }", "a.cpp", ["f"]),
        ("END_TEST\n\nSTART_TEST (opens)\n{ check(1); }\nuint8_t CRC(buffer_t *b) { return 1; }", "a.c", ["CRC"]),
        (
            "#define M(name) \\\n  /* A \\\n   * b. */ \\\n  int name##_f(int a) \\\n  { return a; }\nint g(int a) { go(); }",
            "a.c",
            ["g"],
        ),
        ("namespace a::b { namespace { int f() { return 1; } } }", "a.cpp", ["f"]),
        ("class G { public: int open() const { return s_; } int s_; };", "a.hpp", ["open"]),
        ("class G { G(int s) : s_(s) { log(s); } ~G() { log(0); } int s_; };", "a.hh", ["G", "~G"]),
        ("class G { operator bool() const { return true; } };", "a.hh", ["operator bool"]),
        ("class G { G() = default; int f() = delete; };", "a.hh", []),
        ("int Gate::open() const { return 1; }", "a.cc", ["Gate::open"]),
        ("template <typename T> T most(T a, T b) { return a > b ? a : b; }", "a.hpp", ["most"]),
        ('extern "C" { int f(void) { return 1; } }', "a.cxx", ["f"]),
        ("int f(void) { auto l = [](int x) { return x; }; return l(1); }", "a.cpp", ["f"]),
        ("int f(void) { return 1; }\n@@@ what;\nint g(void) { return 2; }", "a.c", ["f", "g"]),
        ("", "a.c", []),
    ],
)
def test_functions_found(text: str, path: str, expected: list[str]) -> None:
    assert names(text, path) == expected


@pytest.mark.parametrize(
    ("text", "path", "expected"),
    [
        ("DWORD WINAPI f(void) { return 1; }", "a.c", "f"),
        ("EFI_STATUS\nEFIAPI\nFoo (\n  IN UINTN A\n  )\n{\n  return 0;\n}", "a.c", "Foo"),
        ("static int __init f(void __iomem *p, u8 __maybe_unused n)\n{\n\treturn 1;\n}", "a.c", "f"),
        ("asmlinkage __visible void __init __nokasan f(void)\n{ go(); }", "a.c", "f"),
        ("FUNC(Std_ReturnType, CODE) Can_Init(P2CONST(Can_Config, AUTOMATIC, DATA) c)\n{\n  return 0;\n}", "a.c", "Can_Init"),
        ("MARSHAL_BEGIN(vlan)\nMARSHAL_STR(vlan, name)\nMARSHAL_END(vlan);\nint f(int a)\n{\n return a;\n}", "a.c", "f"),
        ("int f(void)\n{\n\tstruct { int a; } __aligned(BITS / 8) keys;\n\treturn use(&keys);\n}", "a.c", "f"),
        ("static inline\n#ifdef X\nint f(int a)\n#else\nint f(long a)\n#endif\n{\n return a;\n}", "a.c", "f"),
        ("API std::shared_ptr<Gate> f(int a) { return open(a); }", "a.hpp", "f"),
        ("BEGIN_SPACE\n\ntemplate <typename T>\nclass G { public: T f() { return 1; } };\nEND_SPACE\n", "a.hpp", "f"),
        ("class SIM_API Gate final : public Base { GENERATED_BODY()\npublic: int f() { return 1; } };", "a.hpp", "f"),
        ("SIM_INLINE Gate::Gate(int n)\n    : n_{n}\n{\n    log(n);\n}", "a.hpp", "Gate::Gate"),
        ("template <typename M>\nvoid SIM_INLINE sinks::base<M>::f(int n)\n{\n    log(n);\n}", "a.hpp", "sinks::base<M>::f"),
        ("class G { operator const char*() const { return text_; } };", "a.hh", "operator const char*"),
        ("class G { operator std::string() const { return text_; } };", "a.hh", "operator std::string"),
    ],
)
def test_macros_around_a_function_do_not_hide_it(text: str, path: str, expected: str) -> None:
    assert only(text, path).name == expected


def test_branches_of_which_each_opens_a_brace() -> None:
    text = "// Adds.\nint f(int a)\n{\n#ifdef X\n\tif (a) {\n#else\n\tif (!a) {\n#endif\n\t\tgo();\n\t}\n\treturn 1;\n}\n"
    found = functions(text + "\nint g(void) { return 2; }\n", "a.c")
    assert [(f.name, f.comment, f.broken) for f in found] == [("f", "// Adds.", False), ("g", "", False)]
    assert found[0].text == text.rstrip("\n"), "the text is the source's own, with all its branches"


def test_a_lost_brace_costs_one_function() -> None:
    text = "int f(void)\n{\n\tif (x) {\n\treturn 1;\n}\n\nint g(void)\n{\n\treturn 2;\n}\n"
    assert "g" in names(text)


def test_what_macros_add_is_part_of_the_signature() -> None:
    assert only("SIM_INLINE std::string name(int n) { return x; }", "a.hpp").signature == "SIM_INLINE std::string name(int n)"
    assert only("static int\n#ifdef X\nf(int a)\n#endif\n{ return a; }").signature == "static int f(int a)"


def test_flattening_keeps_every_byte_in_its_place() -> None:
    source = b'/* a */ int x; // b\n#if 0\nno\n#elif Y\nyes "/* no comment */"\n#endif\nEXPORT int f(void) __init(x) {\n'
    flat = flattened(source)
    assert len(flat) == len(source)
    assert flat.split() == [b"int", b"x;", b"yes", b'"/*', b"no", b"comment", b'*/"', b"int", b"f(void)", b"{"]


def test_names_that_a_macro_hid_are_dropped() -> None:
    text = "void f(void)\n{\n#define LOOP for (;;) {\n  LOOP\n}\nint if (x) { y(); }\nint while (x) { y(); }\n"
    assert not {"if", "while", "for"} & set(names(text))


def test_the_leading_comment_belongs_to_the_function() -> None:
    text = "int x;\n\n/**\n * @brief Open the gate.\n */\n// now\nint gate_open(int n)\n{\n    return n;\n}\n"
    found = only(text)
    assert found.text.startswith("/**\n * @brief Open")
    assert found.lines == (3, 10)
    assert "\n".join(text.split("\n")[2:10]) == found.text
    assert job(found) == "Open the gate."


def test_a_comment_after_a_blank_line_and_a_licence_do_not() -> None:
    assert only("// far away\n\nint f(void) { return 1; }").comment == ""
    assert only("/* SPDX-License-Identifier: MIT */\nint f(void) { return 1; }").text.startswith("int f")
    assert only("/* Copyright (c) 2024 Somebody */\nint f(void) { return 1; }").comment == ""


def test_signature_scope_and_indentation_of_a_method() -> None:
    method = "  /// Open it.\n  int open(int n, // which\n           bool now) const {\n    return n;\n  }\n"
    text = "namespace tsn {\nclass Gate {\n" + method + "};\n}\n"
    found = only(text, "a.hpp")
    assert found.signature == "int open(int n, bool now) const"
    assert found.scope == ("tsn", "Gate")
    assert found.text.startswith("/// Open it.\nint open(")


def test_a_template_keeps_its_head_and_a_constructor_loses_its_initializers() -> None:
    assert only("template <typename T>\nT f(T a) { return a; }", "a.hpp").signature == "template <typename T> T f(T a)"
    assert only("class G { G(int s) : s_(s) { log(s); } int s_; };", "a.hpp").signature == "G(int s)"


def test_broken_functions_are_flagged() -> None:
    assert only("int f(void) { int a = ; return 1; }").broken
    assert not only("int f(void) { return 1; }").broken


def test_text_with_wide_characters_is_cut_at_the_right_place() -> None:
    found = functions("// Größe über alles — ☃\nint a(void) { return 1; }\n/* ☃ */\nint b(void) { return 2; }\n", "a.c")
    assert [f.text.split("\n")[-1] for f in found] == ["int a(void) { return 1; }", "int b(void) { return 2; }"]


@pytest.mark.parametrize(
    ("text", "path", "language"),
    [
        ("int f(void);", "a.h", "c"),
        ("namespace a { int f(); }", "a.h", "cpp"),
        ("/* namespace */ int f(void);", "a.h", "c"),
        ("class G { public: int f(); };", "a.h", "cpp"),
        ("int f();", "a.cc", "cpp"),
        ("namespace x {}", "a.c", "c"),
    ],
)
def test_language_of_a_header(text: str, path: str, language: str) -> None:
    assert language_of(text, path) == language


@pytest.mark.parametrize(
    ("comment", "brief"),
    [
        ("/** @brief Opens a gate.\n * @param n Which.\n */", "Opens a gate."),
        ("/**\n * taprio_init - set up the schedule\n * @sch: the qdisc\n */", "set up the schedule"),
        (
            "/**\n *  stmmac_tx_timeout\n *  @dev : Pointer\n *  Description: called when a frame\n *  is late.\n */",
            "called when a frame is late.",
        ),
        ("/**\n * igc_remove\n * @dev: device\n */", ""),
        ("// Adds two numbers. Never fails.", "Adds two numbers."),
        ("/* ------------------------------ */", ""),
        ("/* TODO */", ""),
        ("/// Sends a frame\n/// over two lines.", "Sends a frame over two lines."),
        ("/*!< \\brief Works with 802.1Qbv gates, as it should. */", "Works with 802.1Qbv gates, as it should."),
    ],
)
def test_the_first_sentence_of_a_comment(comment: str, brief: str) -> None:
    assert _brief(comment).rstrip(".") == brief.rstrip(".")


def test_every_instruction_names_signature_job_and_domain() -> None:
    texts = set()
    for i in range(20):
        function = only(f"/** @brief Opens gate number {i}. */\nint gate_open_{i}(int n) {{ return n; }}")
        text = instruction(function, "tsn")
        assert f"int gate_open_{i}(int n)" in text
        assert f"Opens gate number {i}." in text
        assert "Time-Sensitive Networking" in text
        texts.add(text.split("gate")[0])
    assert len(texts) == 4, "all four wordings occur"


def test_a_function_without_comment_is_described_by_its_name() -> None:
    assert "set gate state" in job(only("void tsn_setGateState(int n) { g = n; }"))
