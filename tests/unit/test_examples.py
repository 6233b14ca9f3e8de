"""The example data of the demo holds together: it compiles, parses, and keeps practice and test apart."""

import json
import re
import subprocess
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from reflux import spec
from reflux.records import Prompt

EXAMPLES = Path(__file__).parents[2] / "examples" / "automotive"
CORPUS = sorted(path for path in (EXAMPLES / "corpus").rglob("*") if path.is_file())
WARNINGS = ("-Wall", "-Wextra", "-Werror", "-fsyntax-only")
C = ("gcc", "-std=c11", *WARNINGS)
CPP = ("g++", "-std=c++17", *WARNINGS)
PRELUDE = "#include <stdint.h>\n#include <stdbool.h>\n#include <stddef.h>\n#include <string.h>\n"
FENCED = re.compile(r"```c\n((?:(?!```).)+\n)```", re.DOTALL)
WORDS = {
    "tsn": {"pcp", "vlan", "timestamp", "gate", "priority", "qbv", "qav", "shaper", "gcl", "schedule"},
    "avb": {"stream", "sample", "channel", "bandwidth", "srp", "talker", "listener", "reservation"},
}


@pytest.fixture(scope="module")
def prompts() -> list[Prompt]:
    return [Prompt.model_validate_json(line) for line in (EXAMPLES / "prompts.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def teacher() -> list[dict[str, object]]:
    return [json.loads(line) for line in (EXAMPLES / "teacher.jsonl").read_text().splitlines()]


def test_corpus_has_enough_files_of_each_kind() -> None:
    kinds = Counter((path.parent.name, path.suffix) for path in CORPUS)
    assert len(CORPUS) >= 34
    assert {folder for folder, _ in kinds} == {"tsn", "avb", "carla"}
    assert kinds["carla", ".cpp"] >= 6
    assert {suffix for _, suffix in kinds} == {".c", ".h", ".cpp"}


def test_every_file_names_its_licence() -> None:
    for path in (*CORPUS, EXAMPLES / "demo.yaml"):
        assert "SPDX-License-Identifier: Apache-2.0" in path.read_text().splitlines()[0], path


def test_corpus_compiles_clean() -> None:
    c, cpp = ([str(path) for path in CORPUS if path.suffix == suffix] for suffix in (".c", ".cpp"))
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(_diagnostics, [(*C, *c), (*CPP, *cpp)])) == ["", ""]


def test_headers_stand_alone() -> None:
    headers = [path for path in CORPUS if path.suffix == ".h"]
    assert headers
    for header in headers:
        assert _diagnostics((*C, "-x", "c", "-"), f'#include "{header}"\n') == ""


def test_prompts_fill_the_sets_that_the_demo_asks_for(prompts: list[Prompt]) -> None:
    wanted = _demo().prompts
    sizes = Counter(prompt.set for prompt in prompts)
    assert sizes == {"practice": wanted.practice, "dev": wanted.dev, "test": wanted.test}
    assert {prompt.domain for prompt in prompts if prompt.set == "practice"} == {"tsn", "avb", "carla"}


def test_prompts_are_unique_and_no_family_is_in_two_sets(prompts: list[Prompt]) -> None:
    assert len({prompt.id for prompt in prompts}) == len({prompt.text for prompt in prompts}) == len(prompts)
    sets: dict[str, set[str]] = {}
    for prompt in prompts:
        sets.setdefault(prompt.family, set()).add(prompt.set)
    assert all(len(found) == 1 for found in sets.values())


def test_test_prompts_have_the_three_classic_ones(prompts: list[Prompt]) -> None:
    texts = [prompt.text for prompt in prompts if prompt.set == "test"]
    for classic in ("TSN shaper", "AVB SRP reservation", "PTP timestamp"):
        assert any(classic in text for text in texts), classic


def test_no_function_that_is_measured_can_be_learnt_by_heart(prompts: list[Prompt], teacher: list[dict[str, object]]) -> None:
    seen = "".join(path.read_text() for path in CORPUS) + json.dumps(teacher)
    asked = [(_function(prompt.text), prompt.set) for prompt in prompts]
    assert len({name for name, _ in asked}) == len(asked)
    for name, chosen in asked:
        assert bool(re.search(rf"\b{name}\b", seen)) == (chosen == "practice"), name


def test_teacher_answers_each_practice_prompt_and_no_other(prompts: list[Prompt], teacher: list[dict[str, object]]) -> None:
    practice = {prompt.id: prompt.text for prompt in prompts if prompt.set == "practice"}
    recorded = {str(row["prompt_id"]): row["prompt"] for row in teacher}
    assert len(recorded) == len(teacher)
    assert recorded.pop("connectivity") == "Generate a C struct for a TSN gate control list entry."
    assert recorded == practice


def test_teacher_answers_are_one_short_block_of_clean_c(prompts: list[Prompt], teacher: list[dict[str, object]]) -> None:
    texts = {prompt.id: prompt for prompt in prompts}
    answers = [(str(row["prompt_id"]), answer) for row in teacher for answer in _answers(row)]
    for name, answer in answers:
        code = _code(answer)
        assert 8 <= len(code.splitlines()) <= 22, name
        assert "@brief" in code
        assert not re.search(r"\b(goto|malloc|calloc|realloc|free|while)\b", code), name
        if name in texts:
            assert f"{_function(texts[name].text)}(" in code
            assert "@param" in code
            assert "@return" in code
            assert _domain_words(code, texts[name].domain) >= 3, name
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda pair: _diagnostics((*C, "-x", "c", "-"), PRELUDE + _code(pair[1])), answers))
    assert [(name, text) for (name, _), text in zip(answers, found, strict=True) if text] == []


def test_teacher_has_another_answer_for_a_correction(teacher: list[dict[str, object]]) -> None:
    for row in teacher:
        answers = _answers(row)
        assert len(answers) >= 2, row["prompt_id"]
        assert len(set(answers)) == len(answers), row["prompt_id"]


def test_demo_asks_for_sources_that_exist() -> None:
    demo = _demo()
    for source in demo.data.sources:
        folder = Path(source.uri.removeprefix("file://"))
        assert folder.is_dir()
        assert folder.name == source.domain
    assert demo.prompts.uri == f"file://{EXAMPLES}/prompts.jsonl"


def _demo() -> spec.RunSpec:
    text = (EXAMPLES / "demo.yaml").read_text().replace("${here}", str(EXAMPLES))
    run, problems = spec.check(yaml.safe_load(text))
    assert problems == []
    assert run is not None
    return run


def _diagnostics(command: tuple[str, ...], source: str | None = None) -> str:
    done = subprocess.run(command, input=source, capture_output=True, text=True, check=False)
    return done.stderr or ("" if done.returncode == 0 else f"exit status {done.returncode}")


def _answers(row: dict[str, object]) -> list[str]:
    answers = row["answers"]
    assert isinstance(answers, list)
    return answers


def _code(answer: str) -> str:
    block = FENCED.fullmatch(answer)
    assert block, f"not exactly one C block: {answer[:80]!r}"
    return block[1]


def _function(text: str) -> str:
    named = re.search(r"function (\w+_\w+)", text)
    assert named, text
    return named[1]


def _domain_words(code: str, domain: str) -> int:
    """How many of the domain's words the identifiers have; carla has no list, so it counts as enough."""
    if domain not in WORDS:
        return 3
    words = re.sub(r"/\*.*?\*/", "", code, flags=re.DOTALL).lower().replace("_", " ")
    return len(WORDS[domain] & set(re.findall(r"[a-z]+", words)))
