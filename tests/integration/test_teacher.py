"""Teaching over real HTTP with the real boto3: how the teacher misbehaves, and that nothing is bought twice."""

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
from reflux.commands import Teach
from reflux.errors import Retriable, Stopped, Terminal
from reflux.records import Prompt, TeacherAnswer
from reflux.stages import Stage
from reflux.task import Task
from services.teacher_worker.teaching import teach
from tests.teacher_tasks import COUNT, StandIn, answer_text, asking, prompt_text, stand_in, teach_task


@pytest.fixture
def own_teacher(answers_file: Path) -> Iterator[StandIn]:
    """For those who leave calls behind that they no longer wait for."""
    with stand_in(answers_file) as found:
        yield found


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
from tests.teacher_tasks import asking, teach_task
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
