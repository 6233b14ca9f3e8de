"""What `POST /v1/previews` takes and gives: a look at data before a run learns from it."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from reflux.spec import FieldProblem
from reflux.training_rows import Row

Holds = Literal["sources", "rows", "prompts"]


class PreviewRequest(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    uri: str = Field(min_length=1, max_length=2000, description="As in a spec: `data.sources`, `data.train` or `prompts.uri`")
    holds: Holds = Field(description="sources: a folder of source files; rows: a file to train on; prompts: JSONL of prompts")


class Excerpt(BaseModel):
    path: str
    text: str


class Looked(BaseModel):
    """`complete`: all of it was looked at, and not only as much as a look takes. `blots`: secrets struck out of what is shown."""

    complete: bool
    blots: int = 0


class SourcesPreview(Looked):
    """Files below a place: of C and C++ by suffix, all `others` by number. `paths` has a few, `first` begins one of them."""

    holds: Literal["sources"] = "sources"
    suffixes: dict[str, int]
    others: int
    paths: list[str]
    first: Excerpt | None = None

    def by_suffix(self) -> list[str]:
        """`34 .c`, `7 .cpp`: the most first."""
        return [f"{count:,} {suffix}" for suffix, count in sorted(self.suffixes.items(), key=lambda one: (-one[1], one[0]))]


class LinesPreview(Looked):
    """`checked` lines of a file, of which `errors` are wrong: `wrong` has the first. A prompt is a row of one turn."""

    holds: Literal["rows", "prompts"]
    form: Literal["jsonl", "csv"]
    checked: int
    rows: list[Row]
    errors: int
    wrong: list[FieldProblem]


Preview = Annotated[SourcesPreview | LinesPreview, Field(discriminator="holds")]
