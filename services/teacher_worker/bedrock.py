"""One call of the Bedrock Runtime, and what its errors mean. Tries and waits are not made here."""

import os
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import boto3
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionClosedError,
    ConnectTimeoutError,
    EndpointConnectionError,
    HTTPClientError,
    NoCredentialsError,
    NoRegionError,
    PartialCredentialsError,
    ReadTimeoutError,
    ResponseStreamingError,
)

from reflux.errors import Terminal
from reflux.secret import secret
from reflux.spec import Teacher
from services.teacher_worker.limiter import Limiter

CONNECT_SECONDS = 5
CALLS_AT_ONCE = 256  # connections a client may hold; the limiter decides how many are used

Trouble = Literal["teacher_throttled", "teacher_stream_error", "teacher_timeout", "teacher_unreachable", "refused"]


class CallFailed(Exception):
    """One call without an answer. `refused` means that this prompt will never be answered; all else may be tried again."""

    def __init__(self, trouble: Trouble, message: str) -> None:
        super().__init__(trouble, message)
        self.trouble = trouble
        self.message = message


@dataclass(frozen=True)
class Reply:
    """`cut`: the answer reached the token limit, so that its end is missing."""

    text: str
    input_tokens: int
    output_tokens: int
    cut: bool = False


class Bedrock:
    """A client of one endpoint with one limiter, for all tasks of this process that ask the same teacher."""

    def __init__(self, teacher: Teacher, endpoint_url: str | None) -> None:
        self.limiter = Limiter(teacher.concurrency)
        api_key = secret("BEDROCK_API_KEY")
        config = Config(
            retries={"total_max_attempts": 1},
            connect_timeout=CONNECT_SECONDS,
            read_timeout=teacher.timeout_seconds,
            max_pool_connections=min(CALLS_AT_ONCE, teacher.concurrency),
            signature_version=UNSIGNED if api_key and teacher.provider == "bedrock" else None,
        )
        key = "recorded" if teacher.provider == "recorded" else None  # the stand-in wants a signature, whatever the key
        try:
            session = boto3.Session(aws_access_key_id=key, aws_secret_access_key=key, region_name=teacher.region)
            self._client: Any = session.client("bedrock-runtime", endpoint_url=endpoint_url, config=config)
        except (BotoCoreError, ValueError) as error:
            raise Terminal("invalid_spec", f"No client can be made for the teacher: {error}", "Check teacher.region.") from error
        if api_key and teacher.provider == "bedrock":
            self._client.meta.events.register("before-send.bedrock-runtime", _bearer(api_key))

    def converse(self, teacher: Teacher, system: str, prompt: str) -> Reply:
        """Ask once. Raises CallFailed, or Terminal where no prompt would be answered."""
        try:
            answer = self._client.converse(
                modelId=teacher.model,
                system=[{"text": system}],
                messages=[{"role": "user", "content": [{"text": prompt}]}],
                inferenceConfig={"maxTokens": teacher.max_teacher_tokens, "temperature": min(1.0, teacher.temperature)},
            )
        except ClientError as error:
            raise _meaning(error, teacher) from error
        except (NoCredentialsError, PartialCredentialsError, NoRegionError) as error:
            raise Terminal("no_credentials", f"The teacher can't be asked: {error}") from error
        except ReadTimeoutError as error:
            raise CallFailed("teacher_timeout", f"no answer within {teacher.timeout_seconds:g} s") from error
        except (ConnectionClosedError, ResponseStreamingError) as error:
            raise CallFailed("teacher_stream_error", f"the connection broke off: {error}") from error
        except (EndpointConnectionError, ConnectTimeoutError) as error:
            raise CallFailed("teacher_unreachable", str(error)) from error
        except (HTTPClientError, BotoCoreError) as error:
            raise CallFailed("teacher_stream_error", f"{type(error).__name__}: {error}") from error
        except (ValueError, KeyError, TypeError) as error:  # botocore lets a body that is no JSON through to its parser
            raise CallFailed("teacher_stream_error", f"the answer could not be read: {error}") from error
        return _reply(answer)


def teacher_for(teacher: Teacher) -> Bedrock:
    """The client of this teacher, made once a process. Terminal if a `recorded` teacher has no address."""
    endpoint = teacher.endpoint_url
    if teacher.provider == "recorded":
        endpoint = endpoint or os.environ.get("REFLUX_TEACHER_URL")
        if not endpoint:
            raise Terminal(
                "invalid_spec",
                "The recorded teacher has no address",
                "Set teacher.endpoint_url, or REFLUX_TEACHER_URL for the teacher workers.",
            )
    return _client(teacher, endpoint, secret("BEDROCK_API_KEY"))


@cache
def _client(teacher: Teacher, endpoint: str | None, _api_key: str | None) -> Bedrock:
    return Bedrock(teacher, endpoint)


def _bearer(api_key: str) -> Any:
    def add_header(request: Any, **_: Any) -> None:
        request.headers["Authorization"] = f"Bearer {api_key}"

    return add_header


def _reply(answer: dict[str, Any]) -> Reply:
    content = answer.get("output", {}).get("message", {}).get("content", [])
    usage = answer.get("usage", {})
    text = "".join(block.get("text", "") for block in content)
    if not text.strip():
        raise CallFailed("teacher_stream_error", f"the answer is empty (stop reason: {answer.get('stopReason', 'none')})")
    return Reply(
        text=text,
        input_tokens=usage.get("inputTokens", 0),
        output_tokens=usage.get("outputTokens", 0),
        cut=answer.get("stopReason") == "max_tokens",
    )


def _meaning(error: ClientError, teacher: Teacher) -> CallFailed | Terminal:
    code = error.response.get("Error", {}).get("Code", "")
    message = error.response.get("Error", {}).get("Message", "") or str(error)
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    said = f"{code}: {message}"[:500]
    match code:
        case "ThrottlingException" | "TooManyRequestsException" | "ServiceQuotaExceededException" | "ModelNotReadyException":
            return CallFailed("teacher_throttled", said)
        case "ServiceUnavailableException" | "InternalServerException" | "ModelErrorException" | "ModelStreamErrorException":
            return CallFailed("teacher_stream_error", said)
        case "ModelTimeoutException":
            return CallFailed("teacher_timeout", said)
        case "AccessDeniedException":
            return Terminal("access_denied", f"The teacher refused {teacher.model} in {teacher.region}: {message}"[:600])
        case "UnrecognizedClientException" | "InvalidSignatureException" | "ExpiredTokenException" | "MissingAuthenticationToken":
            return Terminal("no_credentials", f"The teacher does not know these credentials: {said}")
        case "ResourceNotFoundException":
            return _no_such_model(teacher, message)
        case "ValidationException" if _names_the_model(message, teacher.model):
            return _no_such_model(teacher, message)
    if status == 429:
        return CallFailed("teacher_throttled", said)
    if status >= 500 or status == 200:
        return CallFailed("teacher_stream_error", said)
    if status == 403:
        return Terminal("access_denied", f"The teacher refused {teacher.model}: {said}")
    return CallFailed("refused", said)


def _names_the_model(message: str, model: str) -> bool:
    said = message.lower()
    return "model identifier" in said or "model id" in said or "on-demand throughput" in said or model.lower() in said


def _no_such_model(teacher: Teacher, message: str) -> Terminal:
    return Terminal(
        "model_not_found",
        f"{teacher.region} has no teacher {teacher.model}: {message}"[:600],
        "Check teacher.model and teacher.region, and that the account was given access to the model.",
    )
