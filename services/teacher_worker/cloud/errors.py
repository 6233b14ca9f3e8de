"""What the errors of EC2, SageMaker and IAM mean: the tables of the canonical state machine, by the provider's own codes."""

from collections.abc import Iterator
from contextlib import contextmanager

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    NoCredentialsError,
    NoRegionError,
    ParamValidationError,
    PartialCredentialsError,
)

from reflux.errors import POLICIES, ErrorClass, RefluxError, Retriable, Terminal

# Without the part after a dot that says what is wrong with it (InvalidAMIID.NotFound, .Malformed, .Unavailable).
CODES = {
    "provider_throttled": "RequestLimitExceeded Throttling ThrottlingException TooManyRequestsException EC2ThrottledException",
    "instance_lost": "IdempotentInstanceTerminated",  # made by another attempt, and ended since
    "no_capacity": "InsufficientInstanceCapacity InsufficientHostCapacity SpotMaxPriceTooLow CapacityError",
    # IdempotentParameterMismatch: another attempt, with a key of its own; the machine is there, its tags are not seen yet.
    "provider_not_ready": "InternalError InternalFailure InternalServerError Unavailable ServiceUnavailable InvalidInstanceID "
    "IdempotentParameterMismatch",
    "quota_exceeded": "VcpuLimitExceeded InstanceLimitExceeded MaxSpotInstanceCountExceeded ResourceLimitExceeded",
    "access_denied": "UnauthorizedOperation AccessDenied AccessDeniedException AuthFailure OptInRequired",
    "no_credentials": "ExpiredToken ExpiredTokenException RequestExpired UnrecognizedClientException InvalidClientTokenId",
    "image_missing": "InvalidAMIID InvalidAMIAttributeItemValue ImageNotFoundException RepositoryNotFoundException",
    "network_missing": "InvalidSubnetID InvalidSubnet InvalidGroup InvalidSecurityGroupID InvalidVpcID VPCIdNotSpecified",
    "role_not_found": "InvalidIamInstanceProfile NoSuchEntity",
    "invalid_spec": "Unsupported InvalidParameterValue InvalidParameterCombination InvalidParameter ValidationException",
}
MEANS = {code: meaning for meaning, codes in CODES.items() for code in codes.split()}
# Of a SageMaker job that failed: the first of these that its FailureReason, in small letters, has in it.
REASONS = (
    ("capacityerror", "no_capacity"),
    ("insufficient capacity", "no_capacity"),
    ("insufficientcapacity", "no_capacity"),
    ("resourcelimitexceeded", "quota_exceeded"),
    ("internalservererror", "provider_not_ready"),
    ("no s3 objects found", "no_inputs"),
    ("assume", "role_not_found"),
    ("access denied", "access_denied"),
    ("accessdenied", "access_denied"),
    ("not authorized", "access_denied"),
    ("pull", "image_missing"),
    ("manifest", "image_missing"),
    ("ecr image", "image_missing"),
)
GONE = ("InvalidInstanceID.NotFound", "InvalidVolume.NotFound")
STILL = ("IncorrectInstanceState", "IncorrectState", "VolumeInUse")


def code_of(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def meaning(error: ClientError) -> str:
    """The code of reflux.errors."""
    code, message = code_of(error), str(error.response.get("Error", {}).get("Message", "")).lower()
    found = MEANS.get(code) or MEANS.get(code.split(".")[0])
    if found == "invalid_spec" and ("iaminstanceprofile" in message.replace(" ", "") or "could not assume role" in message):
        return "role_not_found"
    if found == "invalid_spec" and "image" in message and ("ecr" in message or "registry" in message or "repository" in message):
        return "image_missing"
    if found is None:
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return "provider_not_ready" if status >= 500 else "provider_refused"
    return found


def reason_of(failure: str) -> str:
    """The code of reflux.errors for the FailureReason of a SageMaker job."""
    told = failure.lower()
    if told.startswith("algorithmerror"):  # what a container says of itself may hold any word
        return "container_failed"
    return next((code for words, code in REASONS if words in told), "provider_refused")


def translated(error: ClientError | BotoCoreError, what: str) -> RefluxError:
    """The RefluxError that says what happened while `what` was tried."""
    if isinstance(error, ClientError):
        code = meaning(error)
        told = f"{what}: {code_of(error)}: {error.response.get('Error', {}).get('Message', '')}"
    elif isinstance(error, NoCredentialsError | PartialCredentialsError):
        code, told = "no_credentials", f"{what}: AWS credentials were not found"
    elif isinstance(error, NoRegionError | ParamValidationError):
        code, told = "invalid_spec", f"{what}: {error}"
    else:
        code, told = "provider_not_ready", f"{what}: {error}"
    return problem(code, told)


def problem(code: str, told: str, hint: str = "") -> RefluxError:
    kind = Terminal if POLICIES[code].error_class == ErrorClass.TERMINAL else Retriable
    return kind(code, told[:1000], hint)


@contextmanager
def speaking(what: str) -> Iterator[None]:
    """Around calls to the provider: its errors become RefluxErrors."""
    try:
        yield
    except (ClientError, BotoCoreError) as error:
        raise translated(error, what) from error
