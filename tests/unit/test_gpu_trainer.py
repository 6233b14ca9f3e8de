"""The pure parts of the GPU trainer: choice of tokens, ends of code blocks, the estimate of memory."""

from collections import Counter

import pytest
import torch

from reflux.memory import Shape, need, what_fits
from reflux.spec import RunSpec
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


GRANITE_8B = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 49152,
    "max_position_embeddings": 128000,
    "tie_word_embeddings": True,
}
SMOLLM2_135M = {
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "vocab_size": 49152,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
}


def spec(**sections: dict[str, object]) -> RunSpec:
    return RunSpec.model_validate({"data": {"sources": [{"uri": "file:///sources"}]}, **sections})


def test_parameters_are_counted_from_the_config() -> None:
    small, large = Shape.of(SMOLLM2_135M), Shape.of({"text_config": GRANITE_8B})
    assert small
    assert large
    assert small.linear + small.other == 134_515_008
    assert large.linear + large.other == pytest.approx(8.05e9, rel=0.01)
    assert Shape.of({"d_model": 512}) is None


def test_the_default_run_fits_an_a100_and_less() -> None:
    granite = Shape.of(GRANITE_8B)
    assert granite
    estimate = need(granite, spec(), bf16=True)
    assert estimate.weights == pytest.approx(4.9, abs=0.3)  # 4 bits and a bit for 7.9 billion, 4 bytes for the embeddings
    assert 10 < estimate.total < 20
    assert what_fits(granite, spec(), bf16=True, there_gb=40) == ""


def test_with_fsdp_each_process_holds_its_part() -> None:
    granite = Shape.of(GRANITE_8B)
    assert granite
    full = spec(student={"method": "full"})
    parts = spec(student={"method": "full"}, training={"sharding": "fsdp"})
    alone, eight = need(granite, full, bf16=True), need(granite, parts, bf16=True, processes=8)
    assert eight.training == pytest.approx(alone.training / 8)
    assert alone.weights / 8 < eight.weights < alone.weights / 4  # and one block as a whole
    assert need(granite, full, bf16=True, processes=8) == alone == need(granite, parts, bf16=True)
    assert what_fits(granite, full, bf16=True, there_gb=40, processes=8).startswith("training.sharding: fsdp would need about")


def test_what_does_not_fit_comes_with_the_least_that_would() -> None:
    granite = Shape.of(GRANITE_8B)
    assert granite
    wide = spec(training={"batch_size": 8, "accumulation": 1})
    assert what_fits(granite, wide, bf16=True, there_gb=18).startswith(
        "training.batch_size: 1 (and training.accumulation: 8) would"
    )
    lora = spec(student={"method": "lora"})
    assert what_fits(granite, lora, bf16=True, there_gb=20).startswith("student.method: qlora would need about")
    full = spec(student={"method": "full"}, training={"gradient_checkpointing": False})
    told = what_fits(granite, full, bf16=True, there_gb=10)
    assert told.startswith(
        "training.gradient_checkpointing: true with student.method: qlora with training.max_length: 1024 would"
    )
    assert "smaller student" in what_fits(granite, full, bf16=True, there_gb=4)
