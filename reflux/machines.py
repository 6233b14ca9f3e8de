"""Machines that exist only for a run, as the API and the teacher workers speak of them.

Each is recorded before it is made: the intent stands in Postgres with the token that makes its creation happen once, and that
its tags carry. So whatever dies between the provider's call and its answer, the machine is found again, and ended.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from reflux.errors import Failure

Kind = Literal["ec2_instance", "sagemaker_job"]
TAG_RUN, TAG_TOKEN, TAG_DEPLOYMENT = "reflux:run", "reflux:token", "reflux:deployment"
KINDS: dict[str, Kind] = {"ec2": "ec2_instance", "sagemaker": "sagemaker_job"}  # by compute.kind


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class Machine(Frozen):
    """One intent. `id` is the provider's, where it is known."""

    token: str
    run_id: str
    kind: Kind
    region: str
    deployment: str
    id: str | None = None

    @property
    def tags(self) -> dict[str, str]:
        named = {"Name": self.token, TAG_RUN: self.run_id, TAG_TOKEN: self.token, TAG_DEPLOYMENT: self.deployment}
        return named


class Volume(Frozen):
    volume_id: str
    status: Literal["deleted", "deleting", "failed"]
    error: str | None = None
    timestamp: str
    note: str | None = None


class Ended(Frozen):
    """What became of a machine when it was to be ended. `cost_per_hour` (USD) is what still runs up; None: not known."""

    token: str
    id: str | None = None
    status: Literal["terminated", "terminating", "failed", "not_found"]
    error: str | None = None
    note: str | None = None
    volumes: tuple[Volume, ...] = ()
    cost_per_hour: float | None = 0.0
    timestamp: str


class Lost(Machine):
    """A machine that its run can't count on any more. `why` is of a code whose policy is `of_machine`."""

    why: Failure | None = None


class Seen(Machine):
    """A machine of a live run in its provider's word. `restarting`: on its way to work again, by its provider's own doing."""

    state: str = Field(max_length=60)
    restarting: bool = False


class Interruption(Frozen):
    """What the provider tells a spot machine: that it will be ended (or stopped), and when (UTC)."""

    action: str = Field(max_length=40)
    time: str = Field(max_length=40)


class Place(Frozen):
    """Where machines of this deployment may be: to be looked through by its tag."""

    kind: Kind
    region: str
    deployment: str


class Duties(BaseModel):
    """What a teacher worker is to look at now: machines to end, `working` ones of live runs, and places."""

    machines: list[Machine] = Field(default_factory=list)
    working: list[Machine] = Field(default_factory=list)
    places: list[Place] = Field(default_factory=list)


class Looked(BaseModel):
    """What it has found: what became of `machines`; how those of `working` are, or that they are lost; what lives in `places`."""

    ended: list[Ended] = Field(default_factory=list, max_length=1000)
    seen: list[Seen] = Field(default_factory=list, max_length=1000)
    lost: list[Lost] = Field(default_factory=list, max_length=1000)
    living: list[Machine] = Field(default_factory=list, max_length=1000)
