"""Datasets: nothing leaks between the sides of a split, the same input gives the same bytes, bad input is named."""

import hashlib
import json
import random
from pathlib import Path
from typing import Any

import pytest

from reflux.artifacts import Artifacts
from reflux.commands import Prepare
from reflux.errors import Terminal
from reflux.events import DatasetPrepared
from reflux.records import Example, Prompt
from reflux.spec import RunSpec
from reflux.stages import Stage
from reflux.task import Task
from services.teacher_worker import families, prompts
from services.teacher_worker.dataset import prepare
from services.teacher_worker.families import Families, tokens
from tests.s3 import BUCKET, S3
from tests.teacher_tasks import EXAMPLES, spec, task, write_jsonl

PREPARE = Prepare(stage=Stage.PREPARING)


def function(name: str, lines: int = 30, seed: int = 0, changed: int = 0) -> str:
    """A function whose body is drawn by `seed`; `changed` of its lines are another's."""
    draw, other = random.Random(f"{seed}"), random.Random(f"other {name}")
    body = [f"    total += step_{draw.randrange(10**6)}(frame, {draw.randrange(10**6)});" for _ in range(lines)]
    body[:changed] = [f"    total ^= {other.randrange(10**6)};" for _ in range(changed)]
    return f"int {name}(int frame)\n{{\n    int total = 0;\n" + "\n".join(body) + "\n    return total;\n}\n"


def corpus(folder: Path, families: int = 40, copies: int = 3) -> str:
    """Files of functions; each function has copies that are nearly the same, in other files."""
    folder.mkdir()
    for copy in range(copies):
        for i in range(families):
            (folder / f"file_{i:03d}_{copy}.c").write_text(function(f"work_{i}", seed=i, changed=int(copy > 0)))
    return f"file://{folder}"


def made(folder: Path, run_spec: RunSpec) -> tuple[DatasetPrepared, Task]:
    hand = task(folder, PREPARE, run_spec)
    return prepare(hand), hand


def rows(hand: Task, name: str) -> list[Example]:
    return list(hand.artifacts.read_rows(f"{hand.folder}/{name}.jsonl", Example))


def asked(hand: Task) -> list[Prompt]:
    return list(hand.artifacts.read_rows(f"{hand.folder}/prompts.jsonl", Prompt))


def of(uri: str, **sections: Any) -> RunSpec:
    return spec(**({"data": {"sources": [{"uri": uri, "domain": "tsn"}]}} | sections))


def test_no_family_is_on_two_sides(tmp_path: Path) -> None:
    event, hand = made(tmp_path, of(corpus(tmp_path / "src"), prompts={"practice": 10, "dev": 4, "test": 4}))
    train, val = rows(hand, "train"), rows(hand, "val")
    sides = {name: {p.family for p in asked(hand) if p.set == name} for name in ("practice", "dev", "test")}
    assert (event.practice, event.dev, event.test) == (10, 4, 4)
    assert event.practice_characters == sum(len(p.text) for p in asked(hand) if p.set == "practice")
    groups = [{row.family for row in train}, {row.family for row in val}, sides["dev"], sides["test"]]
    for i, one in enumerate(groups):
        assert one
        for other in groups[i + 1 :]:
            assert not one & other
    assert sides["practice"] <= groups[0], "practice prompts are about what is trained on"
    bodies = {row.messages[-1].content for row in train + val}
    assert len({row.family for row in train + val}) == 32, "copies that are nearly the same are one family"
    assert len(bodies) == event.train + event.val


def test_share_of_validation(tmp_path: Path) -> None:
    uri = corpus(tmp_path / "src", families=100, copies=1)
    event, _ = made(tmp_path, of(uri, prompts={"practice": 1, "dev": 0, "test": 0}))
    assert event.val == 10
    assert event.train == 90


def test_exact_copies_go_whatever_their_layout(tmp_path: Path) -> None:
    folder = tmp_path / "src"
    folder.mkdir()
    (folder / "a.c").write_text(function("f", seed=1) + function("g", seed=2))
    (folder / "b.c").write_text("// a copy\n" + function("f", seed=1).replace("    ", "\t\t"))
    event, hand = made(tmp_path, of(f"file://{folder}", prompts={"practice": 1, "dev": 0, "test": 0}))
    assert event.train + event.val == 2
    statistics = hand.artifacts.get_json(f"{hand.folder}/dataset.json")
    assert (statistics["examples"], statistics["duplicates"]) == (3, 1)


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    uri = corpus(tmp_path / "src")
    _, one = made(tmp_path / "one", of(uri))
    _, two = made(tmp_path / "two", of(uri))
    _, other = made(tmp_path / "other", of(uri, seed=43))
    for name in ("train", "val", "prompts"):
        path = f"{one.folder}/{name}.jsonl"
        assert one.artifacts.get(path) == two.artifacts.get(path)
        assert one.artifacts.get(path) != other.artifacts.get(path)


@pytest.mark.parametrize("at_once", [families.SORTED, 16])
def test_the_bytes_are_those_of_earlier_versions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    """However many rows are sorted in memory at once. A change of these digests changes everybody's datasets: say so."""
    monkeypatch.setattr(families, "SORTED", at_once)
    _, hand = made(tmp_path, of(corpus(tmp_path / "src")))
    contents = (hand.artifacts.get(f"{hand.folder}/{name}.jsonl") for name in ("train", "val", "prompts"))
    assert [hashlib.sha256(content).hexdigest()[:16] for content in contents] == [
        "bb91c121521b8432",
        "3dfe6da9ef4b6ac7",
        "e868d9426b72e6f5",
    ]


def test_the_same_files_give_the_same_bytes_from_s3(s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    uri = corpus(tmp_path / "src", families=6, copies=2)
    for path in ("file_001/deep.c", "file_001.d/more.c"):
        (tmp_path / "src" / path).parent.mkdir()
        (tmp_path / "src" / path).write_text(function(path[:8] + path[8:9].strip("/."), seed=len(path)))
    Artifacts(f"s3://{BUCKET}/{tmp_path.name}").upload(tmp_path / "src", "src")
    _, one = made(tmp_path / "one", of(uri))
    _, two = made(tmp_path / "two", of(f"s3://{BUCKET}/{tmp_path.name}/src"))
    for name in ("train", "val", "prompts", "dataset"):
        path = f"{one.folder}/{name}" + (".json" if name == "dataset" else ".jsonl")
        assert one.artifacts.get(path) == two.artifacts.get(path)


def test_nothing_but_binaries(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    for i in range(3):
        (tmp_path / "src" / f"{i}.c").write_bytes(b"\x7fELF\0\1")
        (tmp_path / "src" / f"{i}.so").write_bytes(b"\x7fELF\0\1")
    with pytest.raises(Terminal) as error:
        made(tmp_path, of(f"file://{tmp_path}/src"))
    assert error.value.code == "empty_dataset"
    assert "src (6 files, 3 of them C or C++). Left out: 3 binary, 3 not_c." in error.value.message


def test_families_join_what_is_alike_and_nothing_else(tmp_path: Path) -> None:
    texts = [
        function("a", 40, seed=1),
        function("a", 40, seed=2),
        function("b", 40, seed=1, changed=1),
        function("a", 40, seed=1),
    ]
    with Families(tmp_path, 0.85) as found:
        for text in texts:
            found.add(tokens(text))
        assert found.firsts().tolist() == [0, 1, 0, 0]


def test_files_without_functions_are_completed(tmp_path: Path) -> None:
    folder = tmp_path / "src"
    folder.mkdir()
    header = "".join(f"#define REGISTER_{i} 0x{i:08x}U\n" for i in range(40))
    (folder / "registers.h").write_text(header)
    (folder / "short.h").write_text("#define A 1\n")
    (folder / "f.c").write_text(function("f"))
    event, hand = made(tmp_path, of(f"file://{folder}", prompts={"practice": 5, "dev": 0, "test": 0}))
    assert event.skipped == {"too_short": 1}
    completion = next(row for row in rows(hand, "train") + rows(hand, "val") if row.lineage.path == "registers.h")
    head = completion.messages[1].content.split("```c\n")[1].removesuffix("\n```")
    tail = completion.messages[2].content.removeprefix("```c\n").removesuffix("\n```")
    assert f"{head}\n{tail}\n" == header
    assert completion.messages[0].role == "system"
    assert [p.family for p in asked(hand)] != [completion.family], "only functions make prompts"


def test_what_dev_and_test_ask_for_by_name_is_not_trained_on(tmp_path: Path) -> None:
    uri = corpus(tmp_path / "src", families=10, copies=2)
    lines = [
        {"text": "Write work_3, which works.", "set": "test"},
        {"text": "Write work_4, which works.", "set": "practice"},
    ]
    file = write_jsonl(tmp_path / "p.jsonl", lines)
    _, hand = made(tmp_path, of(uri, prompts={"uri": file, "practice": 1, "dev": 0, "test": 1}))
    texts = "".join(row.messages[-1].content for row in rows(hand, "train") + rows(hand, "val"))
    assert "work_3(" not in texts
    assert "work_4(" in texts


def test_prompts_without_a_set_are_shared_out_by_family(tmp_path: Path) -> None:
    lines = [{"text": f"Do task {i} of {i // 2}.", "family": f"f{i // 2}"} for i in range(60)]
    file = write_jsonl(tmp_path / "p.jsonl", lines)
    chosen = prompts.from_file(of("file:///nowhere", prompts={"uri": file, "practice": 20, "dev": 10, "test": 10}))
    assert chosen is not None
    counts = {name: sum(p.set == name for p in chosen) for name in prompts.SETS}
    assert counts == {"practice": 20, "dev": 10, "test": 10}
    assert [p.set for p in chosen] == sorted((p.set for p in chosen), key=prompts.SETS.index)
    assert prompts.shared_families(chosen) == []
    again = prompts.from_file(of("file:///nowhere", prompts={"uri": file, "practice": 20, "dev": 10, "test": 10}))
    assert chosen == again


def test_few_prompts_shrink_all_sets_alike(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "p.jsonl", [{"prompt": turns(i)["messages"][0]["content"]} for i in range(30)])
    chosen = prompts.from_file(of("file:///nowhere", prompts={"uri": file, "practice": 200, "dev": 50, "test": 50}))
    assert chosen is not None
    assert {name: sum(p.set == name for p in chosen) for name in prompts.SETS} == {"practice": 20, "dev": 5, "test": 5}


def test_the_usual_place_of_prompts(tmp_path: Path) -> None:
    uri = corpus(tmp_path / "src", families=4, copies=1)
    write_jsonl(tmp_path / "src" / prompts.USUAL_PLACE, [{"id": "p1", "text": "Do it.", "set": "practice"}])
    event, hand = made(tmp_path, of(uri))
    assert [p.id for p in asked(hand)] == ["p1"]
    assert "Fewer prompts than wanted: 1 of 200 practice, 0 of 50 dev, 0 of 50 test" in event.warnings


def test_families_in_several_sets_are_warned_of(tmp_path: Path) -> None:
    lines = [{"text": f"Do {s}.", "set": s, "family": "same"} for s in ("practice", "test")]
    file = write_jsonl(tmp_path / "p.jsonl", lines)
    uri = corpus(tmp_path / "src", families=4, copies=1)
    event, _ = made(tmp_path, of(uri, prompts={"uri": file, "practice": 1, "dev": 0, "test": 1}))
    assert any("same" in warning for warning in event.warnings)


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("{", "Invalid JSON"),
        ('{"id": "a"}', "text: Field required"),
        ('{"text": ""}', "text: String should have at least 1 character"),
        ('{"text": "a", "set": "exam"}', "set: Input should be"),
        ('{"text": "a", "id": "../../up"}', "id: String should match"),
        ('{"text": "a", "colour": 1}', "colour: Extra inputs"),
        ('{"text": "again", "id": "first"}', "the id first stands in line 1 already"),
    ],
)
def test_a_wrong_line_among_the_prompts_is_named(tmp_path: Path, line: str, what: str) -> None:
    file = tmp_path / "p.jsonl"
    file.write_text('{"text": "fine", "id": "first"}\n\n' + line + "\n")
    with pytest.raises(Terminal, match="line 3: ") as error:
        prompts.read(f"file://{file}")
    assert what in error.value.message
    assert error.value.code == "invalid_dataset"


def test_nothing_found_names_the_places(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "a.c").write_bytes(b"\0\1\2")
    sources = [{"uri": f"file://{tmp_path}/src"}, {"uri": f"file://{tmp_path}/gone"}]
    with pytest.raises(Terminal) as error:
        made(tmp_path, spec(data={"sources": sources}))
    assert error.value.code == "empty_dataset"
    for part in ("src (1 files, 1 of them C or C++)", "gone (there is no such folder)", "1 binary"):
        assert part in error.value.message


def turns(i: int, **more: Any) -> dict[str, Any]:
    draw = random.Random(i)
    ask = f"Task {draw.random()} " + " ".join(str(draw.random()) for _ in range(20))
    return {"messages": [{"role": "user", "content": ask}, {"role": "assistant", "content": f"{draw.random()}"}], **more}


def test_uploaded_rows_are_split(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "up.jsonl", [turns(i, source="me") for i in range(50)] + [turns(0)])
    event, hand = made(tmp_path, RunSpec.model_validate({"recipe": "finetune", "data": {"train": file}}))
    assert (event.train, event.val, event.practice, event.dev, event.test) == (45, 5, 0, 0, 0)
    assert rows(hand, "train")[0].lineage.origin == "upload"


def test_uploaded_validation_stays_validation(tmp_path: Path) -> None:
    train = write_jsonl(tmp_path / "t.jsonl", [turns(i) for i in range(20)])
    val = write_jsonl(tmp_path / "v.jsonl", [turns(i) for i in range(18, 25)])
    data = {"train": train, "validation": val}
    event, _ = made(tmp_path, RunSpec.model_validate({"recipe": "finetune", "data": data}))
    assert (event.train, event.val) == (18, 7)


def test_wrong_uploaded_rows_are_named_by_line(tmp_path: Path) -> None:
    good = json.dumps(turns(1))
    wrong = [
        "{",
        '{"txt": "a"}',
        '{"messages": [{"role": "user", "content": "a"}]}',
        '{"messages": [{"role": "robot", "content": "a"}]}',
        '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": " "}]}',
    ]
    file = tmp_path / "up.jsonl"
    file.write_bytes("\n".join([good, *wrong, good]).encode() + b"\n\xff\xfe\n")
    with pytest.raises(Terminal) as error:
        made(tmp_path, RunSpec.model_validate({"recipe": "finetune", "data": {"train": f"file://{file}"}}))
    assert error.value.code == "invalid_dataset"
    for part in (
        "line 2: Invalid JSON",
        "line 3: neither `messages`",
        "line 4: `messages` needs",
        "line 5: messages.0.role",
    ):
        assert part in error.value.message
    assert "line 6: messages.1.content is empty; and 1 more lines" in error.value.message


@pytest.mark.parametrize("content", [None, b"", b"\n\n"])
def test_no_uploaded_rows(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "up.jsonl"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(Terminal) as error:
        made(tmp_path, RunSpec.model_validate({"recipe": "finetune", "data": {"train": f"file://{file}"}}))
    assert error.value.code == "empty_dataset"


def test_the_example_corpus(tmp_path: Path) -> None:
    sources = [{"uri": f"file://{EXAMPLES}/corpus/{domain}", "domain": domain} for domain in ("tsn", "avb", "carla")]
    counts = {"practice": 24, "dev": 8, "test": 12}
    event, hand = made(tmp_path, spec(data={"sources": sources}, prompts={"uri": f"file://{EXAMPLES}/prompts.jsonl", **counts}))
    assert {name: getattr(event, name) for name in counts} == counts
    assert event.train > 100
    assert event.skipped == {}
    assert {row.domain for row in rows(hand, "train")} == {"tsn", "avb", "carla"}
    assert {row.lineage.licence for row in rows(hand, "train")} == {"Apache-2.0"}
    assert not event.warnings
