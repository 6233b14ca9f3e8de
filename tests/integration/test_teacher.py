"""The teacher over real HTTP with the real boto3: what it answers, how it misbehaves, and that nothing is bought twice."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config

from reflux.artifacts import teacher_answer_path
from reflux.commands import Correct, Teach
from reflux.errors import Retriable, Stopped, Terminal
from reflux.records import Answer, Correction, Evidence, Prompt, TeacherAnswer, Verdict
from reflux.spec import RunSpec
from reflux.stages import Stage
from reflux.task import Task
from services.teacher_worker import redaction
from services.teacher_worker.teaching import code_only, correct, question_text, teach
from tests.teacher_tasks import StandIn, spec, stand_in, task, write_jsonl

COUNT = 40


def prompt_text(i: int) -> str:
    return f"Write the C function number {i:03d}, please."


def answer_text(i: int, variant: int = 0) -> str:
    return f"```c\nint f_{i:03d}(void)\n{{\n    return {variant};\n}}\n```"


@pytest.fixture(scope="module")
def answers_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("answers") / "teacher.jsonl"
    rows = [
        {"prompt_id": f"p{i:03d}", "prompt": prompt_text(i), "answers": [answer_text(i, 0), answer_text(i, 1)]}
        for i in range(COUNT)
    ]
    write_jsonl(path, rows)
    return path


@pytest.fixture(scope="module")
def running(answers_file: Path) -> Iterator[StandIn]:
    with stand_in(answers_file) as found:
        yield found


@pytest.fixture
def teacher(running: StandIn) -> StandIn:
    running.behave()
    running.forget()
    return running


@pytest.fixture
def own_teacher(answers_file: Path) -> Iterator[StandIn]:
    """For those who leave calls behind that they no longer wait for."""
    with stand_in(answers_file) as found:
        yield found


def asking(url: str, **teacher: Any) -> RunSpec:
    fields = {"provider": "recorded", "endpoint_url": url, "backoff_seconds": 0.02, "timeout_seconds": 5}
    return spec(teacher=fields | teacher)


def teach_task(folder: Path, run_spec: RunSpec, attempt: int = 1, count: int = COUNT, stop: int = COUNT) -> Task:
    command = Teach(stage=Stage.TEACHING, shard=0, start=0, stop=stop, prompts_path="prompts.jsonl")
    hand = task(folder, command, run_spec, attempt)
    rows = [Prompt(id=f"p{i:03d}", text=prompt_text(i), set="practice", family=f"f{i}") for i in range(count)]
    hand.artifacts.write_rows("prompts.jsonl", [*rows, Prompt(id="t", text="Never asked", set="test", family="t")])
    return hand


def taught(hand: Task, path: str) -> list[TeacherAnswer]:
    return list(hand.artifacts.read_rows(path, TeacherAnswer))


def test_prompts_are_taught_in_their_order(teacher: StandIn, tmp_path: Path) -> None:
    hand = teach_task(tmp_path, asking(teacher.url))
    event = teach(hand)
    rows = taught(hand, event.path)
    assert [row.prompt_id for row in rows] == [f"p{i:03d}" for i in range(COUNT)]
    assert [row.text for row in rows] == [answer_text(i) for i in range(COUNT)]
    assert (event.answered, event.failed, event.usage.calls) == (COUNT, 0, COUNT)
    tokens_in, tokens_out = (sum(getattr(row, name) for row in rows) for name in ("input_tokens", "output_tokens"))
    assert tokens_in > 0
    assert event.usage.cost_usd == pytest.approx((3 * tokens_in + 15 * tokens_out) / 1e6)
    assert hand.drain()["progress"] == {"done": COUNT, "total": COUNT, "note": "answers"}


def test_a_shard_is_taught_alone(teacher: StandIn, tmp_path: Path) -> None:
    hand = teach_task(tmp_path, asking(teacher.url))
    hand.command = Teach(stage=Stage.TEACHING, shard=1, start=10, stop=15, prompts_path="prompts.jsonl")
    assert [row.prompt_id for row in taught(hand, teach(hand).path)] == [f"p{i:03d}" for i in range(10, 15)]


def test_what_is_stored_is_not_bought_again(teacher: StandIn, tmp_path: Path) -> None:
    first = teach(teach_task(tmp_path, asking(teacher.url)))
    again = teach(teach_task(tmp_path, asking(teacher.url), attempt=2))
    assert again.usage == first.usage
    assert len(teacher.calls()) == COUNT


@pytest.mark.parametrize(
    "behaviour",
    [
        {"throttle": 0.3},
        {"unavailable": 0.3},
        {"cut": 0.2, "malformed": 0.1, "empty": 0.1},
        {"per_second": 100, "burst": 5},
    ],
    ids=["throttled", "unavailable", "broken", "bucket"],
)
def test_misbehaviour_is_borne(teacher: StandIn, tmp_path: Path, behaviour: dict[str, Any]) -> None:
    teacher.behave(**behaviour, seed=7)
    fresh = asking(teacher.url, tries=12, region="-".join(behaviour).replace("_", "-"))  # with a pace of its own
    event = teach(teach_task(tmp_path, fresh))
    assert (event.answered, event.failed) == (COUNT, 0)
    assert len(teacher.calls()) > COUNT, "it did misbehave"
    if "throttle" in behaviour or "per_second" in behaviour:
        assert len(teacher.calls(200)) == COUNT


@pytest.mark.parametrize(("behaviour", "code"), [({"deny": True}, "access_denied"), ({"unknown_model": True}, "model_not_found")])
def test_what_no_try_would_mend_ends_at_once(teacher: StandIn, tmp_path: Path, behaviour: dict[str, Any], code: str) -> None:
    teacher.behave(**behaviour)
    with pytest.raises(Terminal) as error:
        teach(teach_task(tmp_path, asking(teacher.url)))
    assert error.value.code == code
    assert error.value.hint
    assert len(teacher.calls()) <= 10, "no more than were under way"


def test_denied_in_the_middle_keeps_what_was_bought(teacher: StandIn, tmp_path: Path) -> None:
    teacher.behave(deny_after=20)
    with pytest.raises(Terminal):
        teach(teach_task(tmp_path, asking(teacher.url)))
    bought = len(teacher.calls(200))
    teacher.behave()
    assert teach(teach_task(tmp_path, asking(teacher.url), attempt=2)).answered == COUNT
    assert len(teacher.calls(200)) == COUNT
    assert bought >= 20


def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(Retriable) as error:
        teach(teach_task(tmp_path, asking("http://127.0.0.1:9", tries=2), count=3))
    assert error.value.code == "teacher_unreachable"


def test_no_answer_in_time(own_teacher: StandIn, tmp_path: Path) -> None:
    own_teacher.behave(latency=30)
    with pytest.raises(Retriable) as error:
        teach(teach_task(tmp_path, asking(own_teacher.url, timeout_seconds=0.2, tries=2), count=3))
    assert error.value.code == "teacher_timeout"


def test_prompts_without_recorded_answer_are_skipped_and_counted(teacher: StandIn, tmp_path: Path) -> None:
    hand = teach_task(tmp_path, asking(teacher.url), count=COUNT + 2, stop=COUNT + 2)
    event = teach(hand)
    assert (event.answered, event.failed) == (COUNT, 2)
    failed = taught(hand, event.path.replace("taught", "failed"))
    assert [row.prompt_id for row in failed] == ["p040", "p041"]
    assert "There is no recorded answer" in str(failed[0].error)


def test_nothing_answered_is_terminal(teacher: StandIn, tmp_path: Path) -> None:
    hand = teach_task(tmp_path, asking(teacher.url))
    hand.artifacts.write_rows("prompts.jsonl", [Prompt(id="x", text="Unheard of", set="practice", family="x")])
    with pytest.raises(Terminal, match="answered none of 1 prompts") as error:
        teach(hand)
    assert error.value.code == "teaching_failed"


def test_an_answer_cut_at_the_token_limit_is_no_answer(teacher: StandIn, tmp_path: Path) -> None:
    teacher.behave(answer="int x;\n" * 100)
    hand = teach_task(tmp_path, asking(teacher.url, max_teacher_tokens=50), count=3)
    for _ in range(2):
        with pytest.raises(Terminal, match=r"cut at teacher\.max_teacher_tokens"):
            teach(hand)
    assert len(teacher.calls()) == 3, "bought once, although of no use"


def test_a_stop_ends_the_asking(teacher: StandIn, tmp_path: Path) -> None:
    teacher.behave(latency=0.1)
    hand = teach_task(tmp_path, asking(teacher.url, concurrency=4))

    def stop_soon() -> None:
        while len(teacher.calls(200)) < 4:
            time.sleep(0.01)
        hand.stop = "abort"

    threading.Thread(target=stop_soon).start()
    with pytest.raises(Stopped):
        teach(hand)
    bought = len(teacher.calls(200))
    assert 0 < bought < COUNT
    teacher.behave()
    teach(teach_task(tmp_path, asking(teacher.url), attempt=2))
    assert len(teacher.calls(200)) == COUNT, "what was under way at the stop was kept"


KILLED = """
import sys
from pathlib import Path
from services.teacher_worker.teaching import teach
from tests.integration.test_teacher import asking, teach_task
teach(teach_task(Path(sys.argv[1]), asking(sys.argv[2], concurrency=4)))
"""


def test_a_kill_in_the_middle_buys_nothing_twice_that_was_recorded(own_teacher: StandIn, tmp_path: Path) -> None:
    teacher = own_teacher
    teacher.behave(latency=0.1)
    hand = teach_task(tmp_path, asking(teacher.url))
    folder = teacher_answer_path("r1", "teach", "x", 1).rpartition("/")[0]
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path), teacher.url], env={**os.environ, "PYTHONPATH": "."})
    while sum(path.endswith(".json") for path in hand.artifacts.paths(folder)) < 10:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    left = [path.rsplit("/", 1)[1] for path in hand.artifacts.paths(folder)]
    recorded = {name.split("-")[0] for name in left if name.endswith(".json")}
    begun = {name.split("-")[0] for name in left if name.endswith(".asked")} - recorded
    teacher.behave()
    event = teach(teach_task(tmp_path, asking(teacher.url), attempt=2))
    assert event.answered == event.usage.calls == COUNT
    served = Counter(call["prompt_id"] for call in teacher.calls(200))
    assert len(served) == COUNT
    assert all(served[prompt_id] == 1 for prompt_id in recorded)
    assert event.usage.at_risk == len(begun) <= 4, "what was under way is counted"
    assert served.total() <= COUNT + event.usage.at_risk


def test_two_attempts_at_once_end_with_the_same_answers(teacher: StandIn, tmp_path: Path) -> None:
    teacher.behave(latency=0.05)
    hands = [teach_task(tmp_path, asking(teacher.url), attempt=n) for n in (1, 2)]
    events: dict[int, Any] = {}
    threads = [threading.Thread(target=lambda h=hand: events.update({h.attempt: teach(h)})) for hand in hands]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    one, two = (hands[0].artifacts.get(events[n].path) for n in (1, 2))
    assert one == two


# Corrections


def verdict(i: int, overall: float) -> Verdict:
    evidence = Evidence(part="syntax", rule="gcc", message="expected ';' before '}' token", points=-4.0, line=3)
    scores = {"syntax": overall, "protocol": overall, "safety": overall, "style": overall}
    code = f"int f_{i:03d}(void) {{ return x }}"
    return Verdict(prompt_id=f"p{i:03d}", overall=overall, compiles=False, code=code, rubric="1", evidence=(evidence,), **scores)


def correct_task(folder: Path, run_spec: RunSpec, scores: list[float], **fields: Any) -> Task:
    more: dict[str, Any] = {"answers_paths": ("a.jsonl",), "verdicts_paths": ("v.jsonl",), "shard": 0} | fields
    hand = task(folder, Correct(stage=Stage.REFINING, epoch=2, **more), run_spec)
    hand.artifacts.write_rows("v.jsonl", [verdict(i, score) for i, score in enumerate(scores)])
    rows = [Answer(prompt_id=f"p{i:03d}", prompt=prompt_text(i), text="bad") for i in range(len(scores))]
    hand.artifacts.write_rows("a.jsonl", rows)
    return hand


def corrections(hand: Task, path: str) -> list[Correction]:
    return list(hand.artifacts.read_rows(path, Correction))


def test_the_worst_are_corrected_first_and_shared_out(teacher: StandIn, tmp_path: Path) -> None:
    scores = [6.9, 7.0, 2.0, 5.0, 2.0, 9.0, 1.0]
    found = []
    for shard in range(2):
        hand = correct_task(tmp_path, asking(teacher.url), scores, shard=shard, shards=2, limit=4)
        event = correct(hand)
        found.append([row.prompt_id for row in corrections(hand, event.path)])
        assert (event.requested, event.answered) == (2, 2)
        assert event.usage.calls == 2
    assert found == [["p006", "p004"], ["p002", "p003"]]


def test_a_correction_is_another_answer_than_the_attempt(teacher: StandIn, tmp_path: Path) -> None:
    hand = correct_task(tmp_path, asking(teacher.url), [1.0])
    hand.artifacts.write_rows("v.jsonl", [verdict(0, 1.0).model_copy(update={"code": answer_text(0, 1)[5:-4]})])
    (row,) = corrections(hand, correct(hand).path)
    assert row.answer.text == answer_text(0, 0)
    assert (row.ask, row.admitted, row.attempt.text) == (1, None, "bad")


def test_nothing_poor_buys_nothing(teacher: StandIn, tmp_path: Path) -> None:
    hand = correct_task(tmp_path, asking(teacher.url), [8.0, 9.0])
    event = correct(hand)
    assert (event.requested, event.answered, event.usage.calls) == (0, 0, 0)
    assert corrections(hand, event.path) == []
    assert teacher.calls() == []


def test_refused_corrections_are_asked_for_once_more(teacher: StandIn, tmp_path: Path) -> None:
    first = correct_task(tmp_path, asking(teacher.url), [1.0, 2.0])
    rows = corrections(first, correct(first).path)
    judged = [
        row.model_copy(update={"verdict": verdict(0, 0.5), "admitted": i == 0, "why": "lower"}) for i, row in enumerate(rows)
    ]
    first.artifacts.write_rows("judged.jsonl", judged)
    again = task(
        tmp_path, Correct(stage=Stage.REFINING, epoch=2, shard=0, ask=2, refused_path="judged.jsonl"), asking(teacher.url)
    )
    event = correct(again)
    (row,) = corrections(again, event.path)
    assert (row.prompt_id, row.ask, row.admitted, row.verdict) == ("p001", 2, None, None)
    assert event.usage.calls == 1
    assert len(teacher.calls(200)) == 3


def test_unrecorded_corrections_do_not_fail_the_epoch(teacher: StandIn, tmp_path: Path) -> None:
    hand = correct_task(tmp_path, asking(teacher.url), [1.0])
    hand.artifacts.write_rows("a.jsonl", [Answer(prompt_id="p000", prompt="Unheard of", text="bad")])
    event = correct(hand)
    assert (event.requested, event.answered) == (1, 0)


def test_the_teacher_sees_task_attempt_and_findings(tmp_path: Path) -> None:
    poor = verdict(3, 2.5)
    row = Correction(
        prompt_id="p003",
        prompt=prompt_text(3),
        attempt=Answer(prompt_id="p003", prompt=prompt_text(3), text="…"),
        attempt_verdict=poor,
        answer=TeacherAnswer(prompt_id="p003", prompt="", model="", text=answer_text(3)),
    )
    text = question_text(row)
    for part in (prompt_text(3), poor.code, "2.5 of 10", "- syntax, line 3: expected ';' before '}' token (-4)"):
        assert part in text
    refused = question_text(row.model_copy(update={"admitted": False, "why": "it scored 2.0", "verdict": poor}))
    assert "refused: it scored 2.0" in refused
    assert answer_text(3) in refused


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        ("Sure!\n```c\nint a;\n```\nDone.", "```c\nint a;\n```"),
        ("```c\nint a;\n```\nand\n```c\nint b;\n```", "```c\nint a;\n\nint b;\n```"),
        ("```\nint a;\n```", "```c\nint a;\n```"),
        ("```c\nint a;\n", "```c\nint a;\n```"),
        ("```cpp\nint a;\n```\n```sh\nmake\n```", "```cpp\nint a;\n```"),
        ("int a;", "int a;"),
        ("```c\n```", "```c\n```"),
        ("", ""),
    ],
)
def test_only_the_code_of_a_reply_is_kept(reply: str, code: str) -> None:
    assert code_only(reply) == code


# Secrets


@pytest.mark.parametrize(
    "secret",
    [
        "AKIAIOSFODNN7EXAMPLE",
        "ghp_" + "a1B2" * 9,
        "-----BEGIN RSA PRIVATE KEY-----\nMIIEow\nabc\n-----END RSA PRIVATE KEY-----",
        "-----BEGIN OPENSSH PRIVATE KEY-----\ncut off here",
    ],
)
def test_secrets_are_blotted_out(secret: str) -> None:
    text, count = redaction.redacted(f"int a;\n// {secret}")
    assert count == 1
    assert text == "int a;\n// [REDACTED]"


def test_plain_code_is_left_alone() -> None:
    code = (
        'static const uint8_t key[] = {0x12, 0x34};\nconst char *password = "none";\nuint64_t clock_id = 0xFFFE0011AABBCCDDULL;'
    )
    assert redaction.redacted(code) == (code, 0)


def test_a_hosted_teacher_never_sees_a_secret(teacher: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BEDROCK_API_KEY", "a-key")
    hand = teach_task(tmp_path, asking(teacher.url, provider="bedrock"))
    secret = "AKIAIOSFODNN7EXAMPLE"
    hand.artifacts.write_rows("prompts.jsonl", [Prompt(id="x", text=f"{prompt_text(1)} // {secret}", set="practice", family="x")])
    event = teach(hand)
    assert event.warnings == ("1 secrets were blotted out of what went to the teacher",)
    assert event.answered == 1


# The wire


def test_the_messages_form_of_invoke(teacher: StandIn) -> None:
    key = {"aws_access_key_id": "x", "aws_secret_access_key": "x"}
    client = boto3.client(
        "bedrock-runtime",
        region_name="us-east-1",
        endpoint_url=teacher.url,
        config=Config(retries={"total_max_attempts": 1}),
        **key,
    )
    body = {
        "anthropic_version": "bedrock-2023-05-31",
        "max_tokens": 100,
        "messages": [{"role": "user", "content": prompt_text(3)}],
    }
    reply = json.loads(client.invoke_model(modelId="any", body=json.dumps(body))["body"].read())
    assert reply["content"] == [{"type": "text", "text": answer_text(3)}]
    assert reply["stop_reason"] == "end_turn"
    assert reply["usage"]["output_tokens"] > 0
    teacher.behave(throttle=1.0)
    with pytest.raises(client.exceptions.ThrottlingException):
        client.invoke_model(modelId="any", body=json.dumps(body))
    client.close()
