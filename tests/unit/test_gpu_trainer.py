"""The pure parts of the GPU trainer: choice of tokens, ends of code blocks."""

from collections import Counter

import pytest
import torch

from services.gpu_trainer.sampling import NUCLEUS, choose, end_of_code


def test_temperature_zero_takes_the_likeliest() -> None:
    logits = torch.tensor([[0.1, 3.0, 0.2], [5.0, 1.0, 4.9]])
    assert choose(logits, torch.tensor([0.99, 0.5]), 0.0, 1.0).tolist() == [1, 0]


def test_a_token_outside_the_nucleus_is_never_chosen() -> None:
    probabilities = torch.tensor([0.5, 0.3, 0.15, 0.05])
    luck = torch.linspace(0, 0.9999, 1000)
    logits = probabilities.log().expand(len(luck), -1)
    chosen = Counter(choose(logits, luck, 1.0, 0.8).tolist())
    assert set(chosen) == {0, 1}
    assert chosen[0] == pytest.approx(1000 * 0.5 / 0.8, abs=2)


@pytest.mark.parametrize("top_p", [0.5, 0.95, 1.0])
def test_choices_follow_the_probabilities_also_where_the_nucleus_is_wide(top_p: float) -> None:
    """A flat distribution over more tokens than the fast path looks at, against the definition in plain Python."""
    vocabulary = 4 * NUCLEUS
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(8, vocabulary, generator=generator) * 0.3
    luck = torch.rand(8, generator=generator)
    chosen = choose(logits, luck, 0.7, top_p).tolist()
    for row in range(8):
        probabilities = torch.softmax(logits[row] / 0.7, -1)
        order = probabilities.argsort(descending=True).tolist()
        nucleus, mass = [], 0.0
        for token in order:
            if mass >= top_p:
                break
            nucleus.append(token)
            mass += float(probabilities[token])
        nucleus.sort()
        reached, expected = 0.0, nucleus[-1]
        for token in nucleus:
            reached += float(probabilities[token])
            if reached > float(luck[row]) * mass:
                expected = token
                break
        assert chosen[row] == expected


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("```c\nint x;\n```\nAnd then", "```c\nint x;\n```"),
        ("Here:\n```c\nint x;\n  ```", "Here:\n```c\nint x;\n  ```"),
        ("```c\nint x;\n", None),
        ("```c\n// a ``` in a comment\n", None),
        ("no code, `just` text", None),
        ("```", None),
    ],
)
def test_an_answer_ends_after_its_first_code_block(text: str, kept: str | None) -> None:
    end = end_of_code(text)
    assert (None if end is None else text[:end]) == kept
