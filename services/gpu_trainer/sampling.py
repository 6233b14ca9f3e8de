"""Writing answers, a batch at a time: prefill, then one token for every row until each has ended.

A row's n-th token is chosen by the n-th random number of the row's own seed. So a prompt gets the same answer whatever
stands beside it in the batch, as far as the arithmetic does (a batch of another shape may round differently).
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

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


@torch.inference_mode()
def write(student: Student, model: Any, drafts: list[Draft], sampling: Sampling) -> Iterator[int]:
    """Complete all drafts together, in place. Yields after each token how long they are by now."""
    width = max(len(draft.prompt) for draft in drafts)
    ids = torch.full((len(drafts), width), student.tokenizer.pad_token_id)
    mask = torch.ones(len(drafts), width + sampling.max_new_tokens, dtype=torch.long)
    for row, draft in enumerate(drafts):
        # Padding stands on the left, so that every row's next token lies in the same column.
        ids[row, width - len(draft.prompt) :] = torch.tensor(draft.prompt)
        mask[row, : width - len(draft.prompt)] = 0
    luck = torch.stack([_uniforms(draft.seed, sampling.max_new_tokens) for draft in drafts])
    ids, mask, luck = ids.to(student.device), mask.to(student.device), luck.to(student.device)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    cache = _roomy_cache(model, width + sampling.max_new_tokens)
    open_drafts = list(drafts)

    for step in range(sampling.max_new_tokens):
        end = width + step
        output = model(
            input_ids=ids,
            attention_mask=mask[:, :end],
            position_ids=positions[:, end - ids.shape[1] : end],
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        ids = choose(output.logits[:, -1].float(), luck[:, step], sampling.temperature, sampling.top_p)[:, None]
        for draft, token in zip(open_drafts, ids[:, 0].tolist(), strict=True):
            if draft.finish_reason is None:
                _append(student, draft, token, sampling)
        yield step + 1
        going = [row for row, draft in enumerate(open_drafts) if draft.finish_reason is None]
        if not going:
            break
        if len(going) <= 0.75 * len(open_drafts):
            # Ended rows cost as much as others: leave them behind, once it is worth copying the cache.
            keep = torch.tensor(going, device=student.device)
            ids, mask, luck, positions = ids[keep], mask[keep], luck[keep], positions[keep]
            cache.batch_select_indices(keep)
            open_drafts = [open_drafts[row] for row in going]


def choose(logits: torch.Tensor, luck: torch.Tensor, temperature: float, top_p: float) -> torch.Tensor:
    """A token for each row of `logits` (rows, vocabulary), by that row's number in [0, 1) out of its nucleus.

    The nucleus are the likeliest tokens that together have at least `top_p` of the probability. It is nearly always among the
    first few hundred, and finding those costs a thirtieth of sorting a vocabulary of 50,000.
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


class _RoomyLayer(DynamicLayer):  # type: ignore[misc]
    """A layer's keys and values with room for all tokens to come. Growing them by concatenation copies the whole cache for each
    token: half of the time of a small student on a CPU."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room
        self.used = 0

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        super().lazy_initialization(key_states, value_states)
        self.all_keys, self.all_values = (
            states.new_empty(*states.shape[:2], self.room, states.shape[3]) for states in (key_states, value_states)
        )

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start, self.used = self.used, self.used + key_states.shape[2]
        self.all_keys[:, :, start : self.used] = key_states
        self.all_values[:, :, start : self.used] = value_states
        self.keys, self.values = self.all_keys[:, :, : self.used], self.all_values[:, :, : self.used]
        return self.keys, self.values

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        self.all_keys, self.all_values = (kept.index_select(0, indices) for kept in (self.all_keys, self.all_values))
        self.keys, self.values = self.all_keys[:, :, : self.used], self.all_values[:, :, : self.used]


def _roomy_cache(model: Any, room: int) -> DynamicCache:
    cache = DynamicCache(config=model.config)
    # Sliding-window layers keep only their window, and stay as they are.
    cache.layers = [_RoomyLayer(room) if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache
