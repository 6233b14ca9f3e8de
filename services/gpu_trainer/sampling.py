"""Writing answers, a batch at a time, with `generate` of transformers.

A row's n-th token is chosen by the n-th random number of the row's own seed. So a prompt gets the same answer whatever
stands beside it in the batch, as far as the arithmetic does (a batch of another shape may round differently).
"""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any, Literal

import torch
from transformers import (
    Cache,
    DynamicCache,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)

from reflux.spec import Generation
from services.gpu_trainer.models import Student

NUCLEUS = 256
OPENING_FENCE = re.compile(r"^[ \t]*```[^\n`]*\n", re.MULTILINE)
CLOSING_FENCE = re.compile(r"^[ \t]*```", re.MULTILINE)


@dataclass(frozen=True)
class Sampling:
    """Temperature 0 takes the likeliest token. `stop_at_fence` ends an answer right after its first code block."""

    max_new_tokens: int
    temperature: float
    top_p: float
    stop_at_fence: bool


def limits(student: Student, settings: Generation, new_tokens: int) -> tuple[Sampling, int]:
    """How to answer, and how many tokens of prompt there may be: a short context keeps at least half of it for the prompt."""
    new_tokens = min(new_tokens, student.context // 2)
    sampling = Sampling(new_tokens, settings.temperature, settings.top_p, settings.stop_at_fence)
    return sampling, min(settings.max_prompt_tokens, student.context - new_tokens)


@dataclass
class Draft:
    """One answer in the making. `cut`: the prompt did not fit as a whole."""

    prompt: Sequence[int]
    seed: int
    cut: bool = False
    ids: list[int] = field(default_factory=list)
    text: str = ""
    finish_reason: Literal["stop", "length"] | None = None

    def restart(self) -> None:
        self.ids, self.text, self.finish_reason = [], "", None


def write(student: Student, model: Any, drafts: list[Draft], sampling: Sampling, after_token: Callable[[int], None]) -> None:
    """Complete all drafts together, in place. After each token, `after_token` is told how long they are by now."""
    shared = _shared(student, drafts)
    own = student.tokenizer.pad(
        {"input_ids": [list(draft.prompt[len(shared) :]) for draft in drafts]}, padding_side="left", return_tensors="pt"
    )
    before = torch.tensor([shared] * len(drafts), dtype=torch.long)
    input_ids = torch.cat([before, own.input_ids], dim=1).to(student.device)
    how = GenerationConfig(
        max_new_tokens=sampling.max_new_tokens,
        do_sample=False,  # a draft's luck has chosen already
        eos_token_id=sorted(student.stop_ids),
        pad_token_id=student.tokenizer.pad_token_id,
    )
    with _no_other_settings(student.model):
        model.generate(
            input_ids=input_ids,
            attention_mask=torch.cat([torch.ones_like(before), own.attention_mask], dim=1).to(student.device),
            past_key_values=_read_once(student, model, shared, len(drafts)),
            generation_config=how,
            logits_processor=LogitsProcessorList([_Luck(drafts, sampling, input_ids.shape[1], student.device)]),
            stopping_criteria=StoppingCriteriaList([_Endings(student, drafts, sampling, after_token)]),
        )


def _shared(student: Student, drafts: Sequence[Draft]) -> list[int]:
    """What all prompts begin with, as a rule the system's turn; never a whole prompt.

    A student whose layers look back over a window only would count the padding that comes behind it.
    """
    if len(drafts) == 1 or student.has_window:
        return []
    columns = zip(*(draft.prompt[:-1] for draft in drafts), strict=False)
    return [column[0] for column in takewhile(lambda column: len(set(column)) == 1, columns)]


def _read_once(student: Student, model: Any, shared: list[int], times: int) -> Cache | None:
    """Keys and values of the shared beginning, for each row of the batch."""
    if not shared:
        return None
    cache = DynamicCache(config=student.model.config)
    with torch.no_grad():
        model(input_ids=torch.tensor([shared], device=student.device), past_key_values=cache, use_cache=True, logits_to_keep=1)
    cache.batch_repeat_interleave(times)
    return cache


class _Luck(LogitsProcessor):  # type: ignore[misc]
    """Leaves each row the one token that its draft's own random numbers choose."""

    def __init__(self, drafts: list[Draft], sampling: Sampling, width: int, device: torch.device) -> None:
        self.sampling, self.width = sampling, width
        self.luck = torch.stack([_uniforms(draft.seed, sampling.max_new_tokens) for draft in drafts]).to(device)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        luck = self.luck[:, input_ids.shape[1] - self.width]
        tokens = choose(scores.float(), luck, self.sampling.temperature, self.sampling.top_p)
        return torch.full_like(scores, -torch.inf).scatter(1, tokens[:, None], 0.0)


class _Endings(StoppingCriteria):  # type: ignore[misc]
    """Takes each draft its new token, and says which of them have ended."""

    def __init__(self, student: Student, drafts: list[Draft], sampling: Sampling, after_token: Callable[[int], None]) -> None:
        self.student, self.drafts, self.sampling, self.after_token = student, drafts, sampling, after_token

    def __call__(self, input_ids: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        for draft, token in zip(self.drafts, input_ids[:, -1].tolist(), strict=True):
            if draft.finish_reason is None:
                _append(self.student, draft, token, self.sampling)
        self.after_token(max(len(draft.ids) for draft in self.drafts))
        return torch.tensor([draft.finish_reason is not None for draft in self.drafts], device=input_ids.device)


def choose(logits: torch.Tensor, luck: torch.Tensor, temperature: float, top_p: float) -> torch.Tensor:
    """A token for each row of `logits` (rows, vocabulary), by that row's number in [0, 1) out of its nucleus.

    The nucleus are the likeliest tokens that together have at least `top_p` of the probability. It is nearly always among the
    first few hundred, and finding those costs a tenth of sorting a vocabulary of 50,000.
    """
    if temperature == 0:
        return logits.argmax(dim=-1)
    probabilities = torch.softmax(logits / temperature, dim=-1)
    size = min(NUCLEUS, logits.shape[-1])
    likeliest, tokens = probabilities.topk(size)
    if bool((likeliest.sum(-1) < top_p).any()):
        likeliest, tokens = probabilities.sort(descending=True)
    before = likeliest.cumsum(-1) - likeliest
    weights = torch.where(before < top_p, likeliest, 0.0)
    # In the order of their numbers: in that of their probabilities, two that are nearly alike would change places by rounding.
    tokens, places = tokens.sort(dim=-1)
    reached = weights.gather(1, places).cumsum(-1)
    place = torch.searchsorted(reached, luck[:, None] * reached[:, -1:], right=True).clamp(max=reached.shape[-1] - 1)
    return tokens.gather(1, place)[:, 0]


def end_of_code(text: str) -> int | None:
    """Where the first closed code block of `text` ends, or None."""
    opening = OPENING_FENCE.search(text)
    closing = CLOSING_FENCE.search(text, opening.end()) if opening else None
    return closing.end() if closing else None


def _append(student: Student, draft: Draft, token: int, sampling: Sampling) -> None:
    draft.ids.append(token)
    if token in student.stop_ids or len(draft.ids) == sampling.max_new_tokens:
        draft.finish_reason = "stop" if token in student.stop_ids else "length"
        draft.text = student.tokenizer.decode(draft.ids, skip_special_tokens=True)
    if sampling.stop_at_fence and token in student.backtick_ids:
        text = student.tokenizer.decode(draft.ids, skip_special_tokens=True)
        end = end_of_code(text)
        if end is not None:
            draft.finish_reason, draft.text = "stop", text[:end]


def _uniforms(seed: int, count: int) -> torch.Tensor:
    return torch.rand(count, generator=torch.Generator().manual_seed(seed))


@contextmanager
def _no_other_settings(model: Any) -> Iterator[None]:
    """Without what the model's author thinks of sampling (penalties and the like): `generate` would fill it in."""
    settings, model.generation_config = model.generation_config, GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = settings
