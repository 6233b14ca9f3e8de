"""Conversations as token ids, the same for training and for generation."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2

from reflux.errors import Terminal
from reflux.records import Message

# For a tokenizer that has no chat template.
FALLBACK_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


@dataclass(frozen=True)
class Encoded:
    """A training row: token ids, and for each whether its loss counts (the assistant wrote it)."""

    id: str
    ids: tuple[int, ...]
    learnt: tuple[bool, ...]
    truncated: bool = False

    @property
    def targets(self) -> int:
        """Tokens that are predicted and count: the first token of a row is never predicted."""
        return sum(self.learnt[1:])


def encode(tokenizer: Any, stop_ids: frozenset[int], row_id: str, messages: Sequence[Message], max_length: int) -> Encoded:
    """A conversation up to its last assistant turn, cut to `max_length` tokens."""
    ids: list[int] = []
    learnt: list[bool] = []
    for text, by_assistant in segments(tokenizer, messages):
        piece = tokenizer.encode(text, add_special_tokens=False)
        if by_assistant and piece[-1] not in stop_ids:
            piece.append(tokenizer.eos_token_id)
        ids += piece
        learnt += [by_assistant] * len(piece)
    return Encoded(row_id, tuple(ids[:max_length]), tuple(learnt[:max_length]), truncated=len(ids) > max_length)


def segments(tokenizer: Any, messages: Sequence[Message]) -> Iterator[tuple[str, bool]]:
    """The rendered conversation in pieces, each with whether the assistant wrote it (the mark that ends its turn included).

    Each piece is tokenized on its own, as a prompt is at generation. That needs no {% generation %} in the template: what
    the assistant wrote is what a turn adds to the prompt before it. A turn of the assistant alone is plain text: no template
    is put around it, and all of it is learnt.
    """
    if [message.role for message in messages] == ["assistant"]:
        yield messages[0].content, True
        return
    done = ""
    for index, message in enumerate(messages):
        if message.role != "assistant":
            continue
        prompt = _render(tokenizer, messages[:index], for_generation=True)
        rendered = _render(tokenizer, messages[: index + 1], for_generation=False)
        if not prompt.startswith(done) or not rendered.startswith(prompt):
            raise Terminal(
                "not_supported",
                "The student's chat template writes the beginning of a conversation differently once it goes on.",
                "Use rows with one assistant turn, or another student.",
            )
        answer = rendered[len(prompt) :].rstrip()
        if answer:
            yield prompt[len(done) :], False
            yield answer, True
            done = prompt + answer


def encode_prompt(tokenizer: Any, system: str, text: str, limit: int, before: Sequence[Message] = ()) -> tuple[list[int], bool]:
    """Ids that the assistant's answer follows, and whether the end of `text` was cut off to keep them within `limit`.

    `before` are the turns between the system's and `text`.
    """
    ids = _prompt_ids(tokenizer, system, text, before)
    if len(ids) <= limit:
        return ids, False
    words = tokenizer.encode(text, add_special_tokens=False)
    excess = len(ids) - limit
    while excess > 0 and words:
        words = words[: max(0, len(words) - excess)]
        ids = _prompt_ids(tokenizer, system, tokenizer.decode(words), before)
        excess = len(ids) - limit
    return ids[-limit:], True


def _prompt_ids(tokenizer: Any, system: str, text: str, before: Sequence[Message]) -> list[int]:
    messages = [Message(role="system", content=system)] if system else []
    messages += [*before, Message(role="user", content=text)]
    ids: list[int] = tokenizer.encode(_render(tokenizer, messages, for_generation=True), add_special_tokens=False)
    return ids


def _render(tokenizer: Any, messages: Sequence[Message], *, for_generation: bool) -> str:
    turns = [{"role": message.role, "content": message.content} for message in messages]
    try:
        return _applied(tokenizer, turns, for_generation=for_generation)
    except jinja2.TemplateError as error:
        # Some templates refuse a system turn: the user says it then.
        if len(turns) < 2 or turns[0]["role"] != "system":
            raise Terminal(
                "not_supported",
                f"The student's chat template refuses a conversation of {', '.join(turn['role'] for turn in turns)}: {error}",
                "Let user and assistant take turns in the rows, or choose another student.",
            ) from error
    first = {"role": turns[1]["role"], "content": f"{turns[0]['content']}\n\n{turns[1]['content']}"}
    return _render(tokenizer, [Message.model_validate(turn) for turn in (first, *turns[2:])], for_generation=for_generation)


def _applied(tokenizer: Any, turns: list[dict[str, str]], *, for_generation: bool) -> str:
    text: str = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=for_generation)
    return text
