"""A command's share of the money: whether one more call could pass it, counting what is under way at its worst."""

from dataclasses import dataclass, field

from reflux.prices import usd
from reflux.spec import Teacher

BYTES_A_TOKEN = 2  # fewer than any tokenizer needs for text or code


def worst(teacher: Teacher, text: str) -> float:
    """The most that one call with this text can cost, in USD."""
    return usd(teacher, len(text.encode(errors="replace")) // BYTES_A_TOKEN + 64, teacher.max_teacher_tokens)


@dataclass
class Purse:
    """`limit` in USD, or None. Not thread-safe."""

    limit: float | None
    spent: float = 0.0
    under_way: dict[int, float] = field(default_factory=dict)

    def take(self, call: int, most: float) -> bool:
        """Set aside what the call may cost at most; False if that is not there."""
        if self.limit is not None and self.spent + sum(self.under_way.values()) + most > self.limit:
            return False
        self.under_way[call] = most
        return True

    def settle(self, call: int, cost: float | None) -> None:
        """The call has ended: its cost; None where the provider may have charged for what never came."""
        most = self.under_way.pop(call, 0.0)
        self.spent += most if cost is None else cost
