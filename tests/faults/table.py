"""What became of each cell of the matrix, as a table."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass
class Cell:
    """`seconds` beyond those of the undisturbed twin. Counts are of samples, calls and epochs."""

    fault: str
    stage: str
    whole: bool = True
    outcome: str = "never ended"
    seconds: float = 0.0
    lost: int = 0
    doubled: int = 0
    changed: int = 0
    paid_twice: int = 0
    at_risk: int = 0
    trained_twice: int = 0

    @property
    def survived(self) -> bool:
        if not self.whole:
            return self.outcome != "never ended" and not self.doubled + self.trained_twice
        trouble = self.lost + self.doubled + self.changed + self.trained_twice + max(0, self.paid_twice - self.at_risk)
        return self.outcome == "succeeded" and not trouble


def progress(cell: Cell, done: int, total: int, seconds_each: float) -> str:
    """What became of the newest cell, and how long the others are going to take."""
    how = "survived" if cell.survived else "NOT SURVIVED"
    hours, minutes = divmod(round((total - done) * seconds_each / 60), 60)
    left = f"{hours} h {minutes:02} min" if hours else f"{minutes} min"
    return f"{done}/{total}  {cell.fault}, {cell.stage}: {cell.outcome}, {cell.seconds:+.0f} s, {how}; {left} to go"


HEADER = ("fault", "stage", "ended", "+s", "lost", "doubled", "changed", "paid twice", "at risk", "trained twice")


def drawn(cells: Iterable[Cell]) -> list[str]:
    """The table, and the line that counts."""
    cells = list(cells)
    rows = [
        (
            c.fault, c.stage, c.outcome, f"{c.seconds:.0f}",
            *(str(n) for n in (c.lost, c.doubled, c.changed, c.paid_twice, c.at_risk, c.trained_twice)),
        )
        for c in cells
    ]  # fmt: skip
    widths = [max(len(row[i]) for row in (HEADER, *rows)) for i in range(len(HEADER))]
    lines = ["  ".join(part.ljust(width) for part, width in zip(row, widths, strict=True)).rstrip() for row in (HEADER, *rows)]
    survived, lost, doubled = sum(c.survived for c in cells), sum(c.lost for c in cells), sum(c.doubled for c in cells)
    return [*lines, "", f"faults: {len(cells)} cells, {survived} survived, {lost} lost, {doubled} doubled"]
