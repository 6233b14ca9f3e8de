"""The pure parts of the GPU trainer: schedule, order of rows, choice of tokens, ends of code blocks."""

from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reflux.spec import Data, RunSpec, Source, Training
from services.gpu_trainer.rows import plan
from services.gpu_trainer.sampling import NUCLEUS, choose, end_of_code
from services.gpu_trainer.train import learning_rate


def spec(**training: object) -> RunSpec:
    return RunSpec(data=Data(sources=(Source(uri="file:///x"),)), training=Training.model_validate(training))


def test_the_learning_rate_rises_in_a_line_then_falls_along_a_cosine() -> None:
    settings = Training(learning_rate=1.0, warmup_steps=4)
    rates = [learning_rate(step, 40, settings) for step in range(1, 41)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[3:] == sorted(rates[3:], reverse=True)
    assert 0 < rates[-1] < 0.01


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 12])
def test_a_short_training_still_reaches_its_learning_rate(steps: int) -> None:
    rates = [learning_rate(step, steps, Training(learning_rate=1.0, warmup_steps=10)) for step in range(1, steps + 1)]
    assert max(rates) > 0.4
    assert min(rates) > 0


@given(rows=st.integers(1, 60), epochs=st.integers(1, 3), batch=st.integers(1, 4), accumulation=st.integers(1, 4))
def test_each_pass_takes_every_row_once(rows: int, epochs: int, batch: int, accumulation: int) -> None:
    steps = plan(rows, spec(epochs=epochs, batch_size=batch, accumulation=accumulation), epoch=1)
    order = [row for step in steps for row in step]
    assert Counter(order) == dict.fromkeys(range(rows), epochs)
    assert all(len(step) == batch * accumulation for step in steps[:-1])
    assert Counter(order[:rows]) == dict.fromkeys(range(rows), 1)


@given(rows=st.integers(1, 20), steps=st.integers(1, 30))
def test_max_steps_counts_steps_whatever_the_rows(rows: int, steps: int) -> None:
    made = plan(rows, spec(max_steps=steps, batch_size=1, accumulation=3), epoch=1)
    assert [len(step) for step in made] == [3] * steps


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    assert plan(30, spec(), epoch=1) == plan(30, spec(), epoch=1)
    assert plan(30, spec(), epoch=1) != plan(30, spec(), epoch=2)


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
