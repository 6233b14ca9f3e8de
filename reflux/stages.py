"""The stages of a run, in the order in which a run takes them."""

from enum import StrEnum


class Stage(StrEnum):
    QUEUED = "queued"
    VALIDATING = "validating"
    PROVISIONING = "provisioning"
    PREPARING = "preparing"
    TEACHING = "teaching"
    TRAINING = "training"
    REFINING = "refining"
    EVALUATING = "evaluating"
    EXPORTING = "exporting"
    CLEANING_UP = "cleaning_up"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    ABORTED = "aborted"

    @property
    def order(self) -> int:
        return list(Stage).index(self)

    @property
    def terminal(self) -> bool:
        return self in (Stage.SUCCEEDED, Stage.FAILED, Stage.ABORTED)
