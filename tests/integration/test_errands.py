"""Questions to students over real HTTP and PostgreSQL, with the workers' part played by hand: late, doubled, silent, gone."""

import json
import secrets
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from reflux.artifacts import Artifacts
from reflux.client import Client
from reflux.commands import Train
from reflux.completions import Tokens
from reflux.errands import CompleteErrand, Errand, ErrandClaim, ErrandEnd, ErrandFailing, JudgeErrand, Said, Written
from reflux.errors import failure
from reflux.local.stack import Stack
from reflux.protocol import Registration
from reflux.records import Verdict
from reflux.worker import Api
from tests.integration.by_hand import SPEC, HandWorker, eventually

WRITTEN = Written(finish_reason="stop", usage=Tokens(prompt=7, answer=2))
VERDICT = Verdict(prompt_id="", overall=7, syntax=7, protocol=7, safety=7, style=7, compiles=True, code="x", rubric="r")


class Hand:
    """A worker's errands thread, step by step."""

    def __init__(self, api: Api, service: str = "gpu_trainer") -> None:
        self.api, self.service, self.name = api, service, f"{service}-{secrets.token_hex(3)}"
        self.register("a")

    def register(self, incarnation: str) -> None:
        self.incarnation = incarnation
        self.api.post("/v1/workers", Registration(name=self.name, service=self.service, incarnation=incarnation))

    def claim(self, seconds: float = 5) -> Errand | None:
        body = ErrandClaim(worker=self.name, incarnation=self.incarnation, service=self.service, seconds=seconds)
        claimed = self.api.once("/v1/errands/claim", body.model_dump(), timeout=20)
        return None if claimed is None else Errand.model_validate(claimed)

    def take(self) -> Errand:
        return eventually(self.claim, 20, "there is no errand")

    def say(self, errand: Errand, text: str = "", at: int = 0) -> bool:
        return self._tell(errand, "said", Said(attempt=errand.attempt, at=at, text=text))

    def end(self, errand: Errand, text: str = "", at: int = 0, result: Written | Verdict = WRITTEN) -> bool:
        return self._tell(errand, "end", ErrandEnd(attempt=errand.attempt, at=at, text=text, result=result))

    def fail(self, errand: Errand, code: str) -> None:
        self._tell(errand, "fail", ErrandFailing(attempt=errand.attempt, failure=failure(code, "it went wrong")))

    def _tell(self, errand: Errand, what: str, body: Said | ErrandFailing) -> bool:
        return bool(self.api.once(f"/v1/errands/{errand.id}/{what}", body.model_dump(mode="json"))["go_on"])


class Asker:
    """A question with a streamed answer, read in a thread to its end."""

    def __init__(self, stack: Stack, body: dict[str, Any]) -> None:
        self.stack, self.body = stack, body | {"stream": True}
        self.heard: list[tuple[str, dict[str, Any]]] = []
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [told for name, told in self.heard if name == kind]

    def text(self) -> str:
        return "".join(piece["text"] for piece in self.of("piece"))

    def ended(self) -> dict[str, Any]:
        self.thread.join(30)
        assert not self.thread.is_alive()
        (end,) = self.of("end")
        return end

    def _read(self) -> None:
        headers = {"Authorization": f"Bearer {self.stack.keys['operator']}"}
        with httpx.stream("POST", f"{self.stack.api_url}/v1/completions", json=self.body, headers=headers, timeout=30) as answer:
            assert answer.status_code == 200, answer.read()
            name = ""
            for line in answer.iter_lines():
                if line.startswith("event: "):
                    name = line[7:]
                elif line.startswith("data: "):
                    self.heard.append((name, json.loads(line[6:])))


@pytest.fixture
def hand(worker: HandWorker) -> Iterator[Hand]:
    hand = Hand(worker.api)
    yield hand
    worker.sql("delete from errands")


@pytest.fixture
def run_id(client: Client) -> str:
    return client.create(SPEC).id


def ask(run_id: str, **more: Any) -> dict[str, Any]:
    return {"run": run_id, "checkpoint": "base", "prompt": "Clamp it."} | more


def test_what_is_said_is_heard_at_once_and_each_piece_once(control_plane: Stack, hand: Hand, run_id: str) -> None:
    asker = Asker(control_plane, ask(run_id, max_tokens=9, temperature=0, top_p=0.5, seed=3, sample=2))
    errand = hand.take()
    assert isinstance(errand.order, CompleteErrand)
    assert [turn.content for turn in errand.order.turns] == ["Clamp it."]
    assert (errand.order.adapter_path, errand.order.sample, errand.spec.seed) == (None, 2, 3)
    generation = errand.spec.generation
    assert (generation.max_new_tokens, generation.temperature, generation.top_p) == (9, 0, 0.5)
    assert hand.say(errand, "int ")
    assert hand.say(errand, "int ")
    eventually(lambda: asker.text() == "int ", 10, "the piece was not heard")
    assert hand.say(errand, "x\0", at=4)
    assert hand.end(errand, "\N{LINE SEPARATOR};", at=6)
    end = asker.ended()
    assert asker.text() == end["text"] == "int x\N{REPLACEMENT CHARACTER}\N{LINE SEPARATOR};"
    assert (end["run"], end["checkpoint"], end["finish_reason"], end["verdict"]) == (run_id, "base", "stop", None)
    assert end["usage"] == {"prompt": 7, "answer": 2}
    assert not hand.say(errand, "late", at=8), "it is over"


def test_a_conversation_keeps_its_turns_and_brings_its_own_system(control_plane: Stack, hand: Hand, run_id: str) -> None:
    turns = [{"role": role, "content": role} for role in ("system", "user", "assistant", "user")]
    with ThreadPoolExecutor(1) as pool:
        body = {"run": run_id, "checkpoint": "base", "messages": turns}
        headers = {"Authorization": f"Bearer {control_plane.keys['operator']}"}
        answer = pool.submit(httpx.post, f"{control_plane.api_url}/v1/completions", json=body, headers=headers, timeout=30)
        errand = hand.take()
        hand.end(errand, "whole")
    assert isinstance(errand.order, CompleteErrand)
    assert [turn.role for turn in errand.order.turns] == ["user", "assistant", "user"]
    assert errand.spec.prompts.system == "system"
    assert answer.result().json()["text"] == "whole"


@pytest.mark.parametrize("stream", [True, False])
def test_whoever_leaves_ends_it(control_plane: Stack, hand: Hand, run_id: str, stream: bool) -> None:
    headers = {"Authorization": f"Bearer {control_plane.keys['operator']}"}
    with httpx.Client(base_url=control_plane.api_url, headers=headers) as asker:
        with ThreadPoolExecutor(1) as pool:

            def leave() -> None:
                with pytest.raises(httpx.ReadTimeout):
                    asker.post("/v1/completions", json=ask(run_id, stream=stream), timeout=1.5)

            leaving = pool.submit(leave)
            errand = hand.take()
            assert hand.say(errand, "" if stream else "begun")
            leaving.result()
        eventually(lambda: not hand.say(errand, "more"), 10, "it went on though nobody waits")


def test_a_silent_worker_s_errand_is_given_to_another_once(
    control_plane: Stack, hand: Hand, worker: HandWorker, run_id: str
) -> None:
    asker = Asker(control_plane, ask(run_id))
    first = hand.take()
    assert hand.say(first, "int x")
    other = Hand(worker.api)
    second = other.take()
    assert (second.id, second.attempt) == (first.id, 2)
    assert not hand.say(first, ";", at=5), "the first is told that it is not its any more"
    assert other.say(second, "int")
    assert other.say(second, " x", at=3)
    other.end(second, " = 1;", at=5)
    assert asker.ended()["text"] == asker.text() == "int x = 1;", "what was said before goes on"


def test_a_claim_whose_answer_was_lost_is_answered_again(control_plane: Stack, hand: Hand, run_id: str) -> None:
    asker = Asker(control_plane, ask(run_id))
    unheard = hand.take()
    again = hand.take()
    assert (again.id, again.attempt) == (unheard.id, 2)
    hand.end(again, "x")
    assert asker.ended()["text"] == "x"


def test_lost_twice_it_has_failed(control_plane: Stack, hand: Hand, run_id: str) -> None:
    asker = Asker(control_plane, ask(run_id))
    hand.take()
    for incarnation in ("b", "c"):
        hand.register(incarnation)  # started anew
        if incarnation == "b":
            assert hand.take().attempt == 2
    asker.thread.join(20)
    (problem,) = asker.of("error")
    assert (problem["status"], problem["code"]) == (503, "worker_lost")
    assert problem["hint"]


def test_one_that_begins_otherwise_the_second_time_is_an_error(control_plane: Stack, hand: Hand, run_id: str) -> None:
    asker = Asker(control_plane, ask(run_id))
    hand.say(hand.take(), "int x")
    eventually(asker.text, 10, "nothing was heard")
    hand.register("b")
    hand.say(hand.take(), "long")
    asker.thread.join(20)
    assert asker.of("error")[0]["code"] == "answer_changed"


def test_given_back_by_workers_that_shut_down_it_is_no_failure(control_plane: Stack, hand: Hand, run_id: str) -> None:
    asker = Asker(control_plane, ask(run_id))
    for _ in range(4):
        hand.fail(hand.take(), "handed_back")
    hand.end(hand.take(), "x")
    assert asker.ended()["text"] == "x"


@pytest.mark.parametrize(("code", "status"), [("prompt_too_long", 422), ("model_not_found", 409)])
def test_what_a_worker_can_not_do_is_told(client: Client, hand: Hand, run_id: str, code: str, status: int) -> None:
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(client.http.post, "/v1/completions", json=ask(run_id))
        hand.fail(hand.take(), code)
    assert (answer.result().status_code, answer.result().json()["code"]) == (status, code)


def test_a_poll_of_the_past_takes_nothing(control_plane: Stack, hand: Hand, worker: HandWorker, run_id: str) -> None:
    with pytest.raises(httpx.ReadTimeout):
        worker.api.once(
            "/v1/errands/claim", {"worker": hand.name, "incarnation": "a", "service": "gpu_trainer", "seconds": 15}, timeout=0.3
        )
    asker = Asker(control_plane, ask(run_id))
    hand.register("b")
    errand = hand.take()
    assert errand.attempt == 1
    hand.end(errand, "x")
    asker.ended()


def test_while_the_gpu_trains_it_says_so_and_for_how_long(
    control_plane: Stack, client: Client, hand: Hand, worker: HandWorker, run_id: str
) -> None:
    worker.name = hand.name
    training = worker.work(run_id, until=lambda command: isinstance(command, Train))
    assert training
    worker.beat(training, progress={"done": 2, "total": 50, "note": "steps"})
    since = "claimed_at = now() - interval '100 s', progress_at = now(), heard_at = now() + interval '60 s'"
    worker.sql(f"update tasks set {since} where id = %s", training.task_id)
    waits = client.http.post("/v1/completions", json=ask(run_id, patience_seconds=0.5), timeout=30)
    assert (waits.status_code, waits.json()["code"]) == (503, "gpu_busy")
    assert f"training epoch 1 of run {run_id}" in waits.json()["detail"]
    assert 2300 < int(waits.headers["Retry-After"]) <= 2400, "48 steps of 50 s"
    asker = Asker(control_plane, ask(run_id))
    errand = hand.take()
    eventually(lambda: asker.heard, 10, "nothing was heard")
    (_, told), *_ = asker.heard
    assert told["doing"] == f"training epoch 1 of run {run_id}"
    assert 2300 < told["eta_seconds"] <= 2400
    assert hand.say(errand)
    assert worker.complete(training).accepted
    hand.end(errand, "x")
    assert asker.ended()["text"] == "x"
    assert {name for name, _ in asker.heard} == {"waiting", "piece", "end"}


def test_of_two_gpus_the_one_that_does_not_train_is_asked(
    control_plane: Stack, hand: Hand, worker: HandWorker, run_id: str
) -> None:
    worker.name = hand.name
    assert worker.work(run_id, until=lambda command: isinstance(command, Train))
    worker.sql("update tasks set heard_at = now() + interval '60 s' where run_id = %s and status = 'claimed'", run_id)
    asker = Asker(control_plane, ask(run_id))
    free = Hand(worker.api)
    eventually(lambda: asker.heard, 10, "the question was not taken on")
    assert hand.claim(seconds=0.3) is None
    free.end(free.take(), "x")
    assert asker.ended()["text"] == "x"


def test_without_a_worker_it_says_what_to_do(client: Client, worker: HandWorker, run_id: str) -> None:
    worker.sql("update workers set seen_at = now() - interval '1 hour' where service = 'gpu_trainer'")
    answer = client.http.post("/v1/completions", json=ask(run_id))
    assert (answer.status_code, answer.json()["code"]) == (503, "no_worker")
    assert "services.gpu_trainer" in answer.json()["hint"]


def test_the_score_is_an_errand_of_the_evaluator(control_plane: Stack, hand: Hand, worker: HandWorker, run_id: str) -> None:
    evaluator = Hand(worker.api, "evaluator")
    asker = Asker(control_plane, ask(run_id, score=True, domain="tsn"))
    hand.end(hand.take(), "int x;")
    judging = evaluator.take()
    assert judging.order == JudgeErrand(text="int x;", prompt="Clamp it.", domain="tsn")
    evaluator.end(judging, result=VERDICT)
    assert asker.ended()["verdict"]["overall"] == 7
    asker = Asker(control_plane, ask(run_id, score=True))
    hand.end(hand.take(), "int y;")
    evaluator.fail(evaluator.take(), "invalid_spec")
    end = asker.ended()
    assert (end["text"], end["verdict"], end["unscored"]) == ("int y;", None, "it went wrong")


def test_checkpoints_by_number_best_and_base(
    control_plane: Stack, client: Client, hand: Hand, worker: HandWorker, run_id: str
) -> None:
    def refused(checkpoint: Any) -> tuple[int, str, str]:
        answer = client.http.post("/v1/completions", json=ask(run_id, checkpoint=checkpoint))
        return answer.status_code, answer.json()["code"], answer.json()["hint"]

    assert refused("best")[:2] == (409, "no_checkpoint")
    worker.work(run_id)
    assert refused(1)[:2] == (409, "checkpoint_gone")
    assert refused(7) == (404, "checkpoint_not_found", "It has best, base, 1, 2.")
    run = client.run(run_id)
    store = Artifacts(control_plane.artifacts_url)
    for epoch in run.epochs:
        store.put(f"{epoch.adapter_path}/adapter_config.json", b"{}")
    for wanted, epoch in ((1, 1), (2, 2), ("best", run.best_epoch)):
        hand.register("a")
        asker = Asker(control_plane, ask(run_id, checkpoint=wanted))
        errand = hand.take()
        assert isinstance(errand.order, CompleteErrand)
        assert errand.order.adapter_path == next(e.adapter_path for e in run.epochs if e.epoch == epoch)
        hand.end(errand, "x")
        assert asker.ended()["checkpoint"] == epoch


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"run": "none"}, 404, "run_not_found"),
        ({"prompt": None}, 422, "malformed"),
        ({"prompt": "x" * 200_001}, 422, "malformed"),
        ({"messages": [{"role": "user", "content": "x"}]}, 422, "malformed"),
        ({"prompt": None, "messages": [{"role": "system", "content": "x"}]}, 422, "malformed"),
        (
            {"prompt": None, "messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "x"}]},
            422,
            "malformed",
        ),
        ({"prompt": "NUL \0"}, 422, "malformed"),
        ({"prompt": "with rfx_" + "x1Y2z3" * 5}, 422, "secret_in_prompt"),
        ({"temperature": 3}, 422, "malformed"),
        ({"tokens": 3}, 422, "malformed"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_is_no_question_is_refused(
    client: Client, hand: Hand, run_id: str, change: dict[str, Any], status: int, code: str
) -> None:
    body = {name: value for name, value in (ask(run_id) | change).items() if value is not None}
    answer = client.http.post("/v1/completions", json=body)
    assert (answer.status_code, answer.json()["code"]) == (status, code)


def test_a_viewer_may_not_ask_and_nobody_too_much(control_plane: Stack, client: Client, hand: Hand, run_id: str) -> None:
    with Client(control_plane.api_url, client.create_key("viewer", "looks on").key) as viewer:
        assert viewer.http.post("/v1/completions", json=ask(run_id)).status_code == 403
    askers = [Asker(control_plane, ask(run_id)) for _ in range(4)]
    eventually(lambda: all(asker.heard for asker in askers), 10, "not all were taken on")
    assert any("3 questions before this one" in told["doing"] for told in askers[3].of("waiting") + askers[0].of("waiting")
               + askers[1].of("waiting") + askers[2].of("waiting"))  # fmt: skip
    hand.register("a")
    refused = client.http.post("/v1/completions", json=ask(run_id))
    assert (refused.status_code, refused.json()["code"]) == (429, "too_many_questions")
    for _ in askers:
        hand.end(hand.take(), "x")
    assert {asker.ended()["text"] for asker in askers} == {"x"}


def test_nothing_is_left_behind(control_plane: Stack, hand: Hand, worker: HandWorker, run_id: str) -> None:
    asker = Asker(control_plane, ask(run_id))
    hand.end(hand.take(), "x")
    asker.ended()
    assert worker.sql("select status from errands where run_id = %s", run_id) == [("done",)]
    worker.sql("update errands set ended_at = ended_at - interval '11 minutes'")
    eventually(lambda: not worker.sql("select 1 from errands where run_id = %s", run_id), 10, "the errand was kept")
