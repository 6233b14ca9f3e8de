"""What was bought already: a run's stored answers, calls that were begun and never answered, and what other runs share."""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from reflux.artifacts import asked_path, shared_answer_path, teacher_answer_path
from reflux.records import TeacherAnswer
from reflux.spec import Teacher
from reflux.task import Task

READERS = 32  # objects read at once


class Bought:
    """The answers to one purpose and ask. Shared by all attempts at all tasks of the run; safe to use from several threads.

    `in_vain` counts, by prompt, the calls that ended without an answer and without a refusal: a worker died, the road broke,
    nothing came in time. The provider may have charged for them.
    """

    def __init__(self, task: Task, purpose: str, ask: int) -> None:
        self._store, self._teacher, self._system = task.artifacts, task.spec.teacher, task.spec.prompts.system
        self._place = (task.run_id, purpose, ask)
        self.in_vain: Counter[str] = Counter()

    def stored(self, prompt_ids: Sequence[str]) -> dict[str, TeacherAnswer]:
        """The answers that are there. Of the other prompts, learns which calls earlier attempts began."""
        found = dict(zip(prompt_ids, self._read_all([self._path(name) for name in prompt_ids]), strict=True))
        answers = {name: TeacherAnswer.model_validate_json(raw) for name, raw in found.items() if raw is not None}
        missing = [name for name in prompt_ids if name not in answers]
        begun = self._read_all([asked_path(self._path(name)) for name in missing])
        self.in_vain.update({name: int(raw) for name, raw in zip(missing, begun, strict=True) if raw is not None})
        return answers

    def asking(self, prompt_id: str) -> None:
        """To be called before each call: should this process die before the answer is kept, the call is known."""
        self._store.put(asked_path(self._path(prompt_id)), str(self.in_vain[prompt_id] + 1).encode())

    def asked_in_vain(self, prompt_id: str, charged: bool) -> None:
        """The call ended without an answer. `charged`: the provider may take money for it; else it was turned away."""
        self.in_vain[prompt_id] += charged
        if self.in_vain[prompt_id]:
            self._store.put(asked_path(self._path(prompt_id)), str(self.in_vain[prompt_id]).encode())
        else:
            self._store.delete(asked_path(self._path(prompt_id)))

    def keep(self, answer: TeacherAnswer) -> TeacherAnswer:
        """Store an answer unless another attempt was first; the one that counts."""
        path = self._path(answer.prompt_id)
        if not self._store.create(path, answer.model_dump_json().encode()):
            answer = TeacherAnswer.model_validate_json(self._store.get(path))
        self._store.delete(asked_path(path))
        return answer

    # Across runs, where teacher.reuse allows it

    def shared(self, text: str) -> TeacherAnswer | None:
        """What another run bought for the same question, asked of the same teacher at the same settings."""
        if not self._teacher.reuse:
            return None
        raw = self._read(shared_answer_path(fingerprint(self._teacher, self._system, text)))
        return TeacherAnswer.model_validate_json(raw) if raw is not None else None

    def share(self, text: str, answer: TeacherAnswer) -> None:
        if self._teacher.reuse and answer.error is None:
            path = shared_answer_path(fingerprint(self._teacher, self._system, text))
            self._store.create(path, answer.model_dump_json().encode())

    def _path(self, prompt_id: str) -> str:
        run_id, purpose, ask = self._place
        return teacher_answer_path(run_id, purpose, prompt_id, ask)

    def _read_all(self, paths: Sequence[str]) -> list[bytes | None]:
        with ThreadPoolExecutor(READERS) as pool:
            return list(pool.map(self._read, paths))

    def _read(self, path: str) -> bytes | None:
        try:
            return self._store.get(path)
        except FileNotFoundError:
            return None


def fingerprint(teacher: Teacher, system: str, text: str) -> str:
    """Of all that an answer depends on."""
    asked = (teacher.provider, teacher.endpoint_url, teacher.answers_uri, teacher.model)
    settings = (teacher.temperature, teacher.max_teacher_tokens)
    return hashlib.sha256(json.dumps([*asked, *settings, system, text]).encode()).hexdigest()
