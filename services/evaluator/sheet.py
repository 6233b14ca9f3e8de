"""One part's account: every point given or taken is a line of evidence, and the lines sum to the score."""

from typing import Literal

from reflux.records import Evidence

PartName = Literal["syntax", "protocol", "safety", "style", "overall"]


class Sheet:
    """The lines of one part, in the order in which they were written."""

    def __init__(self, part: PartName) -> None:
        self.part: PartName = part
        self.evidence: list[Evidence] = []

    def add(self, rule: str, message: str, points: float = 0.0, line: int | None = None, column: int | None = None) -> None:
        points = round(points, 6) + 0.0
        self.evidence.append(Evidence(part=self.part, rule=rule, message=message, points=points, line=line, column=column))

    @property
    def total(self) -> float:
        return round(sum(item.points for item in self.evidence), 6)

    def score(self) -> float:
        """The sum, kept in [0, 10]; what is cut off is a line of its own."""
        total = self.total
        kept = min(10.0, max(0.0, total))
        if kept != total:
            self.add("clamped", f"{total:g} is kept within 0 and 10", kept - total)
        return kept

    def lines(self, most: int = 60) -> tuple[Evidence, ...]:
        """The evidence; beyond `most` lines the rest is one line with the sum of its points."""
        if len(self.evidence) <= most:
            return tuple(self.evidence)
        shown, rest = self.evidence[: most - 1], self.evidence[most - 1 :]
        points = round(sum(item.points for item in rest), 6)
        return (*shown, Evidence(part=self.part, rule="more", message=f"{len(rest)} more", points=points))
