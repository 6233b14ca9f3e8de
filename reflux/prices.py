"""What teachers cost: US dollars for a million tokens, in and out. A spec, or a deployment's own table, goes before this one."""

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field

from reflux.spec import Teacher


class Price(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    input: float = Field(ge=0)
    output: float = Field(ge=0)


Table = Mapping[str, Price]

# By a part of the model's id; the longest that fits counts. On-demand list prices of the providers.
PRICES: Table = {
    "claude-opus-4-5": Price(input=5, output=25),
    "claude-opus-4": Price(input=15, output=75),
    "claude-sonnet-4": Price(input=3, output=15),
    "claude-3-7-sonnet": Price(input=3, output=15),
    "claude-3-5-sonnet": Price(input=3, output=15),
    "claude-haiku-4-5": Price(input=1, output=5),
    "claude-3-5-haiku": Price(input=0.8, output=4),
    "claude-3-haiku": Price(input=0.25, output=1.25),
    "amazon.nova-pro": Price(input=0.8, output=3.2),
    "amazon.nova-lite": Price(input=0.06, output=0.24),
    "amazon.nova-micro": Price(input=0.035, output=0.14),
}


def find(model: str, table: Table = PRICES) -> Price | None:
    known = max((name for name in table if name in model), key=len, default=None)
    return table[known] if known is not None else None


def priced(teacher: Teacher, table: Table = PRICES) -> Teacher:
    """The teacher with the prices that its spec leaves out, where the table knows the model."""
    price = find(teacher.model, table)
    if price is None:
        return teacher
    found = {"input_usd_per_million": price.input, "output_usd_per_million": price.output}
    return teacher.model_copy(update={name: usd for name, usd in found.items() if getattr(teacher, name) is None})


def usd(teacher: Teacher, input_tokens: int, output_tokens: int) -> float:
    """What so many tokens cost; nothing where no price is known."""
    full = priced(teacher)
    return (input_tokens * (full.input_usd_per_million or 0) + output_tokens * (full.output_usd_per_million or 0)) / 1e6
