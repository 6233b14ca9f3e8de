"""Any server that speaks OpenAI's chat completions: OpenAI, vLLM, Ollama, a gateway. What its errors mean."""

from typing import TYPE_CHECKING, Any
from weakref import finalize

from reflux.errors import Terminal
from reflux.secret import secret
from reflux.spec import Teacher
from services.teacher_worker.teachers.call import CALLS_AT_ONCE, CONNECT_SECONDS, CallFailed, Converse, Reply, checked, said

if TYPE_CHECKING:
    from openai import APIStatusError

OPENAI_URL = "https://api.openai.com/v1"


def connect(teacher: Teacher) -> Converse:
    """Thread-safe. The key is OPENAI_API_KEY; without one, no key is sent."""
    import httpx2
    import openai

    url, api_key = teacher.endpoint_url or OPENAI_URL, secret("OPENAI_API_KEY")
    client = openai.OpenAI(
        base_url=url,
        api_key=api_key or "none",
        max_retries=0,
        http_client=openai.DefaultHttpxClient(
            timeout=httpx2.Timeout(teacher.timeout_seconds, connect=CONNECT_SECONDS),
            limits=httpx2.Limits(max_connections=CALLS_AT_ONCE, max_keepalive_connections=CALLS_AT_ONCE),
        ),
    )
    headers = {} if api_key else {"Authorization": openai.Omit()}
    own = teacher.endpoint_url is None  # OpenAI's newest models know no max_tokens, other servers no max_completion_tokens

    def converse(teacher: Teacher, system: str, prompt: str) -> Reply:
        try:
            answer = client.chat.completions.create(
                model=teacher.model,
                messages=[{"role": "system", "content": system}, {"role": "user", "content": prompt}],
                temperature=teacher.temperature,
                max_tokens=openai.omit if own else teacher.max_teacher_tokens,
                max_completion_tokens=teacher.max_teacher_tokens if own else openai.omit,
                extra_headers=headers,
            )
        except openai.APIStatusError as error:
            raise _meaning(error, teacher, api_key) from error
        except openai.APIConnectionError as error:
            raise _broken(error, teacher) from error
        except (openai.OpenAIError, httpx2.HTTPError, ValueError) as error:
            raise CallFailed("teacher_stream_error", f"the answer could not be read: {type(error).__name__}") from error
        return _reply(answer)

    finalize(converse, client.close)
    return converse


def _reply(answer: Any) -> Reply:
    """The SDK hands on what it got: any JSON, or a text."""
    try:
        choice, usage = answer.choices[0], answer.usage
        text, reason = choice.message.content or "", choice.finish_reason
        counts = (usage.prompt_tokens or 0, usage.completion_tokens or 0) if usage else (0, 0)
    except (AttributeError, TypeError, IndexError, KeyError) as error:
        raise CallFailed("teacher_stream_error", "the answer could not be read: it is no chat completion") from error
    if not isinstance(text, str) or not all(isinstance(count, int) for count in counts):
        raise CallFailed("teacher_stream_error", "the answer could not be read: it is no chat completion")
    if reason == "content_filter" and not text.strip():
        raise CallFailed("refused", "the provider's content filter holds the answer back")
    return checked(Reply(text, *counts, cut=reason == "length"), str(reason or ""))


def _broken(error: Exception, teacher: Teacher) -> CallFailed | Terminal:
    """What an error means that no answer came with; the SDK keeps what happened as its cause."""
    import httpx2

    match cause := error.__cause__:
        case httpx2.ConnectError() | httpx2.ConnectTimeout():
            return CallFailed("teacher_unreachable", f"{teacher.endpoint_url or OPENAI_URL}: {cause or type(cause).__name__}")
        case httpx2.UnsupportedProtocol() | httpx2.LocalProtocolError():
            return Terminal("invalid_spec", f"The teacher can't be asked: {type(cause).__name__}", "Check teacher.endpoint_url.")
        case httpx2.TimeoutException():
            return CallFailed("teacher_timeout", f"no answer within {teacher.timeout_seconds:g} s")
    return CallFailed("teacher_stream_error", f"the connection broke off: {type(cause).__name__}")


def _meaning(error: "APIStatusError", teacher: Teacher, api_key: str | None) -> CallFailed | Terminal:
    """What an error means that the server answered with."""
    place = teacher.endpoint_url or OPENAI_URL
    message = said(error.message, [api_key])
    match error.status_code:
        case 429 if error.code == "insufficient_quota":
            return Terminal("quota_exceeded", f"The teacher's account is used up: {message}", "Add credit at the provider.")
        case 429:
            return CallFailed("teacher_throttled", message)
        case 408 | 504:
            return CallFailed("teacher_timeout", message)
        case 401:
            hint = "Set OPENAI_API_KEY for the teacher workers to a key that the endpoint knows."
            return Terminal("no_credentials", f"{place} does not know the key: {message}", hint)
        case 403:
            hint = "Give the key's account the right to use teacher.model, or choose another model."
            return Terminal("access_denied", f"{place} refused {teacher.model}: {message}", hint)
        case status if status == 404 or error.code == "model_not_found":
            hint = "Check teacher.model, and that teacher.endpoint_url ends with /v1."
            return Terminal("model_not_found", f"{place} has no {teacher.model}: {message}", hint)
        case status if status >= 500 or status == 409:
            return CallFailed("teacher_stream_error", message)
    return CallFailed("refused", message)
