"""Each provider over real HTTP with its real client: what it answers, and what each way to fail means."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reflux.commands import Correct, Preflight, Teach
from reflux.errors import Terminal
from reflux.local.recorded_teacher import read_entries
from reflux.records import Answer, Prompt, Verdict
from reflux.spec import Teacher
from reflux.stages import Stage
from services.teacher_worker.preflight import checks
from services.teacher_worker.teachers import CallFailed, Client, Reply, endpoint, teacher_for
from services.teacher_worker.teaching import code_only, correct, teach
from tests.teacher_tasks import StandIn, spec, stand_in, task, write_jsonl

PROMPT = "Write the C function f, please."
ANSWER = "```c\nint f(void)\n{\n    return 0;\n}\n```"
OTHER = "```c\nint f(void)\n{\n    return 1;\n}\n```"
KEY = "sk-planted-0123456789abcdef"
PROVIDERS = ["converse", "invoke", "openai"]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandIn]:
    file = tmp_path_factory.mktemp("answers") / "teacher.jsonl"
    write_jsonl(file, [{"prompt_id": "f", "prompt": PROMPT, "answers": [ANSWER, OTHER]}])
    with stand_in(file) as found:
        yield found


@pytest.fixture
def stand(running: StandIn, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    running.behave()
    running.forget()
    monkeypatch.setenv("BEDROCK_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    return running


def teacher_at(url: str, provider: str, **fields: Any) -> Teacher:
    wire = {"provider": "openai", "endpoint_url": f"{url}/v1"}
    if provider != "openai":
        wire = {"provider": "bedrock", "api": provider, "endpoint_url": url}
    return Teacher(**wire | {"timeout_seconds": 5, "backoff_seconds": 0.01} | fields)


def ask(teacher: Teacher, prompt: str = PROMPT) -> Reply:
    return teacher_for(teacher).converse(teacher, "Be brief.", prompt)


def trouble(teacher: Teacher, prompt: str = PROMPT) -> CallFailed:
    with pytest.raises(CallFailed) as failed:
        ask(teacher, prompt)
    return failed.value


def terminal(teacher: Teacher) -> Terminal:
    with pytest.raises(Terminal) as failed:
        ask(teacher)
    assert failed.value.hint
    return failed.value


@pytest.mark.parametrize("provider", PROVIDERS)
def test_an_answer(stand: StandIn, provider: str) -> None:
    reply = ask(teacher_at(stand.url, provider))
    assert reply == Reply(ANSWER, input_tokens=(len(PROMPT) + 9) // 4, output_tokens=(len(ANSWER) + 3) // 4)
    (call,) = stand.calls(200)
    assert call["operation"] == (provider if provider != "openai" else "chat")
    assert call["key"]


@pytest.mark.parametrize("provider", PROVIDERS)
def test_an_answer_cut_at_the_token_limit_says_so(stand: StandIn, provider: str) -> None:
    reply = ask(teacher_at(stand.url, provider, max_teacher_tokens=3))
    assert reply.cut
    assert reply.text == ANSWER[:12]


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(
    ("behaviour", "expected"),
    [
        ({"throttle": 1}, "teacher_throttled"),
        ({"unavailable": 1}, "teacher_stream_error"),
        ({"cut": 1}, "teacher_stream_error"),
        ({"malformed": 1}, "teacher_stream_error"),
        ({"empty": 1}, "teacher_stream_error"),
        ({"answer": " \n"}, "teacher_stream_error"),
        ({"body": []}, "teacher_stream_error"),
        ({"body": "prose"}, "teacher_stream_error"),
        ({"body": {}}, "teacher_stream_error"),
        ({"body": {"choices": [], "content": [], "usage": {}}}, "teacher_stream_error"),
        ({"body": {"choices": [{"message": {"content": 7}}], "content": 7}}, "teacher_stream_error"),
    ],
    ids=str,
)
def test_what_may_be_tried_again(stand: StandIn, provider: str, behaviour: dict[str, Any], expected: str) -> None:
    stand.behave(**behaviour)
    assert trouble(teacher_at(stand.url, provider)).trouble == expected
    stand.behave()
    assert ask(teacher_at(stand.url, provider)).text == ANSWER, "the client is as good as before"


@pytest.mark.parametrize("provider", PROVIDERS)
def test_silence(stand: StandIn, provider: str) -> None:
    with stand_in() as own:
        own.behave(latency=60, answer=ANSWER)
        assert trouble(teacher_at(own.url, provider, timeout_seconds=0.2)).trouble == "teacher_timeout"


@pytest.mark.parametrize("provider", PROVIDERS)
def test_nobody_there(stand: StandIn, provider: str) -> None:
    assert trouble(teacher_at("http://127.0.0.1:9", provider)).trouble == "teacher_unreachable"


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_prompt_that_is_refused(stand: StandIn, provider: str) -> None:
    assert trouble(teacher_at(stand.url, provider), "Unheard of").trouble == "refused"


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(
    ("behaviour", "code"),
    [({"deny": True}, "access_denied"), ({"unauthorized": True}, "no_credentials")],
    ids=str,
)
def test_what_no_try_would_mend(stand: StandIn, provider: str, behaviour: dict[str, Any], code: str) -> None:
    stand.behave(**behaviour)
    assert terminal(teacher_at(stand.url, provider)).code == code


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_model_that_is_not_there(stand: StandIn, provider: str) -> None:
    stand.behave(unknown_model=True)
    assert terminal(teacher_at(stand.url, provider)).code == "model_not_found"


def test_an_account_that_is_used_up(stand: StandIn) -> None:
    stand.behave(used_up=True)
    assert terminal(teacher_at(stand.url, "openai")).code == "quota_exceeded"


def test_an_endpoint_without_its_v1(stand: StandIn) -> None:
    error = terminal(teacher_at(stand.url, "openai", endpoint_url=stand.url))
    assert error.code == "model_not_found"
    assert "/v1" in error.hint


@pytest.mark.parametrize("url", ["localhost:11434/v1", "ftp://there", "http://", "http://a b", "http://[", "http://x:99999/"])
@pytest.mark.parametrize("provider", PROVIDERS)
def test_an_endpoint_that_is_no_url(stand: StandIn, provider: str, url: str) -> None:
    with pytest.raises((Terminal, CallFailed)):
        ask(teacher_at(stand.url, provider, endpoint_url=url))


@pytest.mark.parametrize(
    ("url", "allowed", "may"),
    [
        ("http://localhost:11434/v1", "", True),
        ("http://127.0.0.1:8000", "", True),
        ("http://[::1]:8000/v1", "", True),
        ("http://169.254.169.254/latest", "", False),
        ("http://vllm.internal:8000/v1", "", False),
        ("http://2130706433/v1", "", False),
        ("http://127.0.0.1@vllm.internal/v1", "", False),
        ("http://vllm.internal\\@127.0.0.1/v1", "", False),
        ("https://localhost.vllm.internal/v1", "", False),
        ("http://VLLM.internal:8000/v1", "other.internal, vllm.internal", True),
        ("http://vllm.internal:8000/v1", "vllm.internal:8000", True),
        ("http://vllm.internal:22/v1", "vllm.internal:8000", False),
        ("https://a.models.example.com", "*.models.example.com", True),
        ("https://models.example.com.evil.org", "*.models.example.com", False),
        ("http://10.0.0.7/v1", "*", True),
    ],
)
def test_only_servers_that_the_operator_allows_are_asked(
    monkeypatch: pytest.MonkeyPatch, url: str, allowed: str, may: bool
) -> None:
    monkeypatch.setenv("REFLUX_TEACHER_ENDPOINTS", allowed)
    if may:
        endpoint.check(url)
        return
    for teacher in (*(teacher_at(url, provider) for provider in PROVIDERS), Teacher(provider="recorded", endpoint_url=url)):
        error = terminal(teacher)
        assert error.code == "invalid_spec"
        assert "endpoint_url" in error.hint


def test_a_server_that_is_not_allowed_fails_the_validation(tmp_path: Path) -> None:
    elsewhere = {"provider": "openai", "endpoint_url": "http://vllm.internal/v1", "skip_check": True}
    hand = task(tmp_path, Preflight(stage=Stage.VALIDATING), spec(teacher=elsewhere))
    found = next(check for check in checks(hand.spec, hand.artifacts, list) if check.name == "teacher")
    assert (found.status, found.code, found.message) == (
        "failed",
        "invalid_spec",
        "The teacher workers may not ask vllm.internal",
    )


def test_an_unknown_profile(stand: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    error = terminal(teacher_at(stand.url, "converse", profile="nobody"))
    assert error.code == "invalid_spec"
    assert "teacher.profile" in error.hint


def test_no_key_is_sent_where_there_is_none(stand: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    assert ask(teacher_at(stand.url, "openai")).text == ANSWER
    assert [call["key"] for call in stand.calls()] == [False]


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("behaviour", [{"deny": True}, {"unauthorized": True}, {"throttle": 1}, {"unknown_model": True}], ids=str)
def test_no_message_repeats_a_key(
    stand: StandIn, provider: str, behaviour: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    stand.behave(**behaviour, telltale=True)
    with pytest.raises((Terminal, CallFailed)) as failed:
        ask(teacher_at(stand.url, provider))
    assert "You sent: Bearer [REDACTED]" in failed.value.message
    assert KEY not in f"{failed.value!r} {failed.value}"
    assert KEY not in caplog.text


def test_no_message_repeats_a_session_token(stand: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BEDROCK_API_KEY")
    for name, value in (("ACCESS_KEY_ID", "AKIAPLANTED"), ("SECRET_ACCESS_KEY", KEY), ("SESSION_TOKEN", "token-planted")):
        monkeypatch.setenv(f"AWS_{name}", value)
    stand.behave(deny=True, telltale=True)
    message = terminal(teacher_at(stand.url, "converse", region="eu-west-1")).message
    assert "Credential=[REDACTED]" in message
    assert "AKIAPLANTED" not in message


# What comes of it in a run


def taught(folder: Path, teacher: Teacher, prompts: list[str]) -> tuple[Any, list[str]]:
    command = Teach(stage=Stage.TEACHING, shard=0, start=0, stop=len(prompts), prompts_path="prompts.jsonl")
    hand = task(folder, command, spec(teacher=teacher.model_dump()))
    rows = [Prompt(id=f"p{i}", text=text, set="practice", family=f"f{i}") for i, text in enumerate(prompts)]
    hand.artifacts.write_rows("prompts.jsonl", rows)
    event = teach(hand)
    return event, [json.loads(line)["text"] for line in hand.artifacts.get(event.path).splitlines()]


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(
    "answer",
    ["int f(void) { return 0; }", "```c\nint f(void)\n{", "```c\n" + "int a;\n" * 30_000 + "```"],
    ids=["no block", "half a block", "200 KB"],
)
def test_odd_answers_are_kept_as_they_came(stand: StandIn, tmp_path: Path, provider: str, answer: str) -> None:
    stand.behave(answer=answer)
    event, texts = taught(tmp_path, teacher_at(stand.url, provider, max_teacher_tokens=100_000), [PROMPT, "Another"])
    assert (event.answered, event.failed) == (2, 0)
    assert texts == [answer, answer]
    assert code_only(answer)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_run_bears_misbehaviour(stand: StandIn, tmp_path: Path, provider: str) -> None:
    stand.behave(throttle=0.2, unavailable=0.1, cut=0.1, malformed=0.1, empty=0.1, answer=ANSWER, seed=3)
    event, texts = taught(tmp_path, teacher_at(stand.url, provider, tries=20), [f"Number {i}" for i in range(20)])
    assert (event.answered, event.failed) == (20, 0)
    assert set(texts) == {ANSWER}


# Answers out of the user's own file


def own(folder: Path, *rows: dict[str, Any] | str) -> Teacher:
    file = folder / "own.jsonl"
    file.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return Teacher(provider="recorded", answers_uri=f"file://{file}")


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": PROMPT, "answers": [ANSWER, OTHER]},
        *({"prompt": PROMPT, name: ANSWER} for name in ("answer", "text", "response", "output")),
        {"prompt_id": "f", "prompt": PROMPT, "domain": "tsn", "text": ANSWER, "model": "m", "tries": 1, "error": None},
        {
            "messages": [
                {"role": "system", "content": "x"},
                {"role": "user", "content": PROMPT},
                {"role": "assistant", "content": ANSWER},
            ]
        },
    ],
    ids="-".join,
)
def test_each_form_of_row(tmp_path: Path, row: dict[str, Any]) -> None:
    teacher = own(tmp_path, "", row)
    assert ask(teacher, f"\n{PROMPT} ") == Reply(ANSWER, 0, 0)
    assert trouble(teacher, "Unheard of").trouble == "refused"


def test_prose_teaches_nothing(stand: StandIn, tmp_path: Path) -> None:
    stand.behave(answer="I would rather talk about the weather.")
    with pytest.raises(Terminal, match="answered none of 1 prompts: there is no code in the answer"):
        taught(tmp_path / "a", teacher_at(stand.url, "converse"), [PROMPT])
    prose = {"prompt": "Else", "answer": "I would rather talk about the weather."}
    event, texts = taught(tmp_path / "b", own(tmp_path, {"prompt": PROMPT, "answer": ANSWER}, prose), [PROMPT, "Else"])
    assert (event.answered, event.failed, texts) == (1, 1, [ANSWER])


def test_prompts_without_an_answer_are_counted(tmp_path: Path) -> None:
    failed = {"prompt": "Failed then", "text": "", "model": "m", "error": "teacher_timeout: no answer"}
    event, texts = taught(tmp_path, own(tmp_path, {"prompt": PROMPT, "text": ANSWER}, failed), [PROMPT, "Failed then", "Else"])
    assert (event.answered, event.failed, event.usage.cost_usd) == (1, 2, 0)
    assert texts == [ANSWER]


def test_a_correction_is_another_answer_than_the_attempt(tmp_path: Path) -> None:
    teacher = own(tmp_path, {"prompt": PROMPT, "answer": ANSWER}, {"prompt": PROMPT, "answer": OTHER})
    for attempt, expected in ((ANSWER, OTHER), (OTHER, ANSWER)):
        hand = task(
            tmp_path / attempt[30:31],
            Correct(stage=Stage.REFINING, epoch=1, answers_paths=("a",), verdicts_paths=("v",), shard=0),
            spec(teacher=teacher.model_dump()),
        )
        scores = dict.fromkeys(("overall", "syntax", "protocol", "safety", "style"), 1.0)
        code = attempt.removeprefix("```c\n").removesuffix("\n```")
        hand.artifacts.write_rows("v", [Verdict(prompt_id="f", compiles=True, code=code, rubric="1", **scores)])
        hand.artifacts.write_rows("a", [Answer(prompt_id="f", prompt=PROMPT, text=attempt)])
        (line,) = hand.artifacts.get(correct(hand).path).splitlines()
        assert json.loads(line)["answer"]["text"] == expected


def test_wrong_lines_are_named(tmp_path: Path) -> None:
    good = {"prompt": PROMPT, "answer": ANSWER}
    wrong = ["{", {"prompt": PROMPT}, {"answer": ANSWER}, {"prompt": 7, "answer": ANSWER}, {"messages": []}, "[]", "\xff"]
    error = terminal(own(tmp_path, good, *wrong))
    assert error.code == "invalid_dataset"
    for part in ("line 2: ", "line 3: there is no answer", "line 4: there is no `prompt`", "line 5: prompt", "and 2 more lines"):
        assert part in error.message


def test_a_line_that_is_too_long_is_named(tmp_path: Path) -> None:
    file = tmp_path / "long.jsonl"
    file.write_text(json.dumps({"prompt": PROMPT, "answer": ANSWER}) + "\n" + "x" * 9_000_000)
    error = terminal(Teacher(provider="recorded", answers_uri=f"file://{file}"))
    assert (error.code, "line 2: longer than" in error.message) == ("invalid_dataset", True)
    with pytest.raises(ValueError, match="line 2: longer than"):
        read_entries([file])


def test_files_that_hold_nothing(tmp_path: Path) -> None:
    assert terminal(own(tmp_path)).code == "empty_dataset"
    assert terminal(own(tmp_path, {"prompt": PROMPT, "error": "x"})).code == "empty_dataset"
    for uri in (f"file://{tmp_path}/gone.jsonl", f"file://{tmp_path}/no/folder.jsonl", f"file://{tmp_path}"):
        assert terminal(Teacher(provider="recorded", answers_uri=uri)).code == "empty_dataset"
    binary = tmp_path / "binary.jsonl"
    binary.write_bytes(bytes(range(256)) * 10)
    assert terminal(Teacher(provider="recorded", answers_uri=f"file://{binary}")).code == "invalid_dataset"


def test_a_corrected_file_is_read_again(tmp_path: Path) -> None:
    assert ask(own(tmp_path, {"prompt": PROMPT, "answer": ANSWER})).text == ANSWER
    assert ask(own(tmp_path, {"prompt": PROMPT, "answer": OTHER + "\n"})).text == OTHER + "\n"


# One client for all who ask alike


def test_whoever_asks_the_same_teacher_shares_its_limiter(stand: StandIn) -> None:
    def client(**fields: Any) -> Client:
        return teacher_for(teacher_at(stand.url, "openai", **fields))

    assert client() is client(temperature=0.1, tries=9, reuse=True, input_usd_per_million=1)
    assert client() is not client(model="another")
