"""Amazon Bedrock, and what its errors mean."""

import json
from collections.abc import Callable
from typing import Any
from weakref import finalize

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
from services.teacher_worker.teachers.call import CALLS_AT_ONCE, CONNECT_SECONDS, CallFailed, Converse, Reply, checked, said

STAND_IN_KEY = "recorded"  # the stand-in wants a signature, whatever the key


def connect(teacher: Teacher, endpoint_url: str | None) -> Converse:
    """Thread-safe. Credentials: BEDROCK_API_KEY as a bearer, else teacher.profile, else AWS' own chain.

    Terminal if no client can be made of the spec.
    """
    hosted = teacher.provider == "bedrock"
    api_key = secret("BEDROCK_API_KEY") if hosted else None
    config = Config(
        retries={"total_max_attempts": 1},
        connect_timeout=CONNECT_SECONDS,
        read_timeout=teacher.timeout_seconds,
        max_pool_connections=CALLS_AT_ONCE,
        signature_version=UNSIGNED if api_key else None,
    )
    try:
        session = open_session(teacher)
        client = session.client("bedrock-runtime", endpoint_url=endpoint_url, config=config)
    except (BotoCoreError, ValueError) as error:
        hint = "Check teacher.region, teacher.profile and teacher.endpoint_url."
        raise Terminal("invalid_spec", f"No client can be made for the teacher: {error}", hint) from error
    if api_key:
        client.meta.events.register("before-send.bedrock-runtime", _bearer(api_key))
    ask = _converse if teacher.api == "converse" else _invoke

    def converse(teacher: Teacher, system: str, prompt: str) -> Reply:
        try:
            return ask(client, teacher, system, prompt)
        except ClientError as error:
            raise _meaning(error, teacher, _secrets(session, api_key)) from error
        except (BotoCoreError, ValueError, LookupError, TypeError, AttributeError) as error:  # botocore parses any body
            raise _broken(error, teacher) from error

    finalize(converse, client.close)
    return converse


def open_session(teacher: Teacher) -> boto3.Session:
    """BotoCoreError if there is no such profile."""
    if teacher.provider == "recorded":
        return boto3.Session(STAND_IN_KEY, STAND_IN_KEY, region_name=teacher.region)
    return boto3.Session(region_name=teacher.region, profile_name=teacher.profile)


def _converse(client: Any, teacher: Teacher, system: str, prompt: str) -> Reply:
    answer = client.converse(
        modelId=teacher.model,
        system=[{"text": system}],
        messages=[{"role": "user", "content": [{"text": prompt}]}],
        inferenceConfig={"maxTokens": teacher.max_teacher_tokens, "temperature": min(1.0, teacher.temperature)},
    )
    content = answer.get("output", {}).get("message", {}).get("content", [])
    usage, reason = answer.get("usage", {}), answer.get("stopReason", "")
    text = "".join(block.get("text", "") for block in content)
    return checked(Reply(text, usage.get("inputTokens", 0), usage.get("outputTokens", 0), reason == "max_tokens"), reason)


def _invoke(client: Any, teacher: Teacher, system: str, prompt: str) -> Reply:
    body = {
        "anthropic_version": "bedrock-2023-05-31",
        "max_tokens": teacher.max_teacher_tokens,
        "temperature": min(1.0, teacher.temperature),
        "system": system,
        "messages": [{"role": "user", "content": prompt}],
    }
    answer = json.loads(client.invoke_model(modelId=teacher.model, body=json.dumps(body))["body"].read())
    usage, reason = answer["usage"], answer["stop_reason"]
    text = "".join(block.get("text", "") for block in answer["content"])
    return checked(Reply(text, usage["input_tokens"], usage["output_tokens"], reason == "max_tokens"), reason)


def _bearer(api_key: str) -> Callable[..., None]:
    def add_header(request: Any, **_: Any) -> None:
        request.headers["Authorization"] = f"Bearer {api_key}"

    return add_header


def _secrets(session: boto3.Session, api_key: str | None) -> list[str | None]:
    """What no message may repeat."""
    if api_key:
        return [api_key]
    found = session.get_credentials()
    frozen = found.get_frozen_credentials() if found else None
    return [frozen.secret_key, frozen.token, frozen.access_key] if frozen and frozen.access_key != STAND_IN_KEY else []


def _broken(error: Exception, teacher: Teacher) -> CallFailed | Terminal:
    """What an error means that no answer came with."""
    match error:
        case NoCredentialsError() | PartialCredentialsError() | NoRegionError():
            return Terminal("no_credentials", f"The teacher can't be asked: {error}")
        case ReadTimeoutError():
            return CallFailed("teacher_timeout", f"no answer within {teacher.timeout_seconds:g} s")
        case ConnectionClosedError() | ResponseStreamingError():
            return CallFailed("teacher_stream_error", f"the connection broke off: {error}")
        case EndpointConnectionError() | ConnectTimeoutError():
            return CallFailed("teacher_unreachable", str(error))
        case HTTPClientError() | BotoCoreError():
            return CallFailed("teacher_stream_error", f"{type(error).__name__}: {error}")
    return CallFailed("teacher_stream_error", f"the answer could not be read: {type(error).__name__}")


def _meaning(error: ClientError, teacher: Teacher, secrets: list[str | None]) -> CallFailed | Terminal:
    """What an error means that Bedrock answered with."""
    code = error.response.get("Error", {}).get("Code", "")
    message = said(error.response.get("Error", {}).get("Message", "") or str(error), secrets)
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    whole = f"{code}: {message}"
    match code:
        case "ThrottlingException" | "TooManyRequestsException" | "ServiceQuotaExceededException" | "ModelNotReadyException":
            return CallFailed("teacher_throttled", whole)
        case "ServiceUnavailableException" | "InternalServerException" | "ModelErrorException" | "ModelStreamErrorException":
            return CallFailed("teacher_stream_error", whole)
        case "ModelTimeoutException":
            return CallFailed("teacher_timeout", whole)
        case "AccessDeniedException":
            return Terminal("access_denied", f"The teacher refused {teacher.model} in {teacher.region}: {message}")
        case "UnrecognizedClientException" | "InvalidSignatureException" | "ExpiredTokenException" | "MissingAuthenticationToken":
            return Terminal("no_credentials", f"The teacher does not know these credentials: {whole}")
        case "ResourceNotFoundException":
            return _no_such_model(teacher, message)
        case "ValidationException" if _names_the_model(message, teacher.model):
            return _no_such_model(teacher, message)
    if status == 429:
        return CallFailed("teacher_throttled", whole)
    if status >= 500 or status == 200:
        return CallFailed("teacher_stream_error", whole)
    if status == 403:
        return Terminal("access_denied", f"The teacher refused {teacher.model}: {whole}")
    return CallFailed("refused", whole)


def _names_the_model(message: str, model: str) -> bool:
    lowered = message.lower()
    return "model identifier" in lowered or "model id" in lowered or "on-demand throughput" in lowered or model.lower() in lowered


def _no_such_model(teacher: Teacher, message: str) -> Terminal:
    return Terminal(
        "model_not_found",
        f"{teacher.region} has no teacher {teacher.model}: {message}",
        "Check teacher.model and teacher.region, and that the account was given access to the model.",
    )
