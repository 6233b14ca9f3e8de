"""What `POST /v1/completions` takes and gives: a question to a student, and its answer. Known to API, client and CLI."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from reflux.records import Message, Verdict

LONGEST_PROMPT = 200_000  # characters of all turns; how many tokens a student takes, its trainer says

Checkpoint = Literal["best", "base"] | Annotated[int, Field(ge=1, le=10**6)]


class CompletionRequest(BaseModel):
    """A `prompt`, or chat `messages` that end with the user's. What is left out is as the run's spec says.

    The same question has the same answer; another `sample`, another one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    run: str = Field(max_length=100, description="The run's id")
    checkpoint: Checkpoint = Field("best", description="`best`, `base` (before any training), or the number of an epoch")
    prompt: Annotated[str, Field(min_length=1, max_length=LONGEST_PROMPT)] | None = None
    messages: Annotated[tuple[Message, ...], Field(min_length=1, max_length=100)] | None = None
    max_tokens: Annotated[int, Field(ge=1, le=32_768)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    sample: Annotated[int, Field(ge=0, lt=2**31)] = 0
    stream: bool = Field(False, description="Answer with Server-Sent Events: `waiting`, `piece`, then `end` or `error`")
    score: bool = Field(False, description="Let the evaluator score the answer by the run's rubric")
    domain: str = Field("generic", pattern=r"^[a-z0-9_-]{1,40}$", description="Whose protocol words count for the score")
    patience_seconds: float = Field(
        600, gt=0, le=86_400, description="The longest wait for the first piece; then the answer is 503, and nothing goes on"
    )

    @model_validator(mode="after")
    def _is_a_question(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give either `prompt` or `messages`")
        roles = [turn.role for turn in self.turns]
        spoken = roles[1:] if roles[0] == "system" else roles
        if not spoken or spoken != (["user", "assistant"] * len(spoken))[: len(spoken)] or spoken[-1] != "user":
            raise ValueError("`messages` are user and assistant in turn, from and to the user, after a system turn if you like")
        if sum(len(turn.content) for turn in self.turns) > LONGEST_PROMPT:
            raise ValueError(f"the messages have more than {LONGEST_PROMPT} characters")
        return self

    @property
    def turns(self) -> tuple[Message, ...]:
        return self.messages or (Message(role="user", content=self.prompt or ""),)


class Piece(BaseModel):
    """What the student has just written. All pieces together are its text."""

    text: str


class Waiting(BaseModel):
    """Nothing is written yet: what the GPU (or, in the end, the evaluator) does instead, and for how long as far as is known."""

    doing: str
    eta_seconds: float | None = None


class Tokens(BaseModel):
    prompt: int
    answer: int


class CompletionView(BaseModel):
    """The whole answer. `checkpoint` is `base` or the epoch that answered; `seconds` from the question to its last token.

    `verdict` if a score was asked for, or `unscored`: why there is none.
    """

    run: str
    checkpoint: Literal["base"] | int
    text: str
    finish_reason: Literal["stop", "length"]
    usage: Tokens
    seconds: float
    verdict: Verdict | None = None
    unscored: str = ""
