"""The two wires that the recorded teacher speaks: Bedrock's Runtime (Converse, InvokeModel with a Messages body) and OpenAI's
chat completions. Requests read, answers and errors written; who answers is not known here.
"""

import re
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import unquote

from reflux.recorded import digest

Operation = Literal["converse", "invoke", "chat"]

BEDROCK = re.compile(r"^/model/([^/]+)/(converse|invoke)$")
CHAT = "/v1/chat/completions"
MODELS = {"object": "list", "data": [{"id": "recorded", "object": "model", "created": 0, "owned_by": "reflux"}]}
CHARACTERS_A_TOKEN = 4


class WireError(Exception):
    """An error as Bedrock names it; its status says the same to a client of OpenAI's."""

    def __init__(self, status: int, kind: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.message = message


@dataclass(frozen=True)
class Asked:
    """A request in whichever form. `text` is its last user message, `most` how many tokens the answer may have."""

    operation: Operation
    model: str
    system: str
    text: str
    most: int

    @classmethod
    def read(cls, path: str, body: dict[str, Any]) -> "Asked | None":
        """None if nothing is answered at `path`. Raises WireError."""
        bedrock = BEDROCK.match(path)
        operation: Any = bedrock.group(2) if bedrock else "chat" if path == CHAT else None
        if operation is None:
            return None
        messages = body.get("messages", ())
        users = [message for message in messages if message.get("role") == "user"]
        if not users:
            raise WireError(400, "ValidationException", "The request needs a message of the user.")
        if operation == "invoke" and "anthropic_version" not in body:
            raise WireError(400, "ValidationException", "anthropic_version: Field required")
        systems = [message.get("content", "") for message in messages if message.get("role") == "system"]
        limits = body.get("inferenceConfig", {}).get("maxTokens"), body.get("max_tokens"), body.get("max_completion_tokens")
        return cls(
            operation=operation,
            model=unquote(bedrock.group(1)) if bedrock else str(body.get("model", "")),
            system=_text(systems[0] if systems else body.get("system", "")),
            text=_text(users[-1].get("content", "")),
            most=next((int(limit) for limit in limits if limit), 4096),
        )


def tokens(text: str) -> int:
    """About as many tokens as a large model would count."""
    return -(-len(text) // CHARACTERS_A_TOKEN)


def answer(asked: Asked, text: str, milliseconds: int) -> dict[str, Any]:
    """The answer in the form that was asked in, cut where it is too long."""
    cut = tokens(text) > asked.most
    text = text[: asked.most * CHARACTERS_A_TOKEN] if cut else text
    counts = tokens(asked.system + asked.text), tokens(text)
    match asked.operation:
        case "converse":
            return {
                "metrics": {"latencyMs": milliseconds},
                "output": {"message": {"content": [{"text": text}], "role": "assistant"}},
                "stopReason": "max_tokens" if cut else "end_turn",
                "usage": _usage("inputTokens", "outputTokens", "totalTokens", counts),
            }
        case "invoke":
            return {
                "id": f"msg_{digest(text)}",
                "type": "message",
                "role": "assistant",
                "model": asked.model,
                "content": [{"type": "text", "text": text}],
                "stop_reason": "max_tokens" if cut else "end_turn",
                "stop_sequence": None,
                "usage": {"input_tokens": counts[0], "output_tokens": counts[1]},
            }
        case "chat":
            message = {"role": "assistant", "content": text}
            return {
                "id": f"chatcmpl-{digest(text)}",
                "object": "chat.completion",
                "created": 0,
                "model": asked.model,
                "choices": [{"index": 0, "message": message, "finish_reason": "length" if cut else "stop"}],
                "usage": _usage("prompt_tokens", "completion_tokens", "total_tokens", counts),
            }


def error(path: str, error: WireError) -> tuple[dict[str, Any], dict[str, str]]:
    """Body and headers of an error."""
    if path.startswith("/v1/"):
        return {"error": {"message": error.message, "type": error.kind, "param": None, "code": error.kind}}, {}
    return {"message": error.message}, {"x-amzn-ErrorType": f"{error.kind}:http://internal.amazon.com/"}


def _usage(asked: str, answered: str, total: str, counts: tuple[int, int]) -> dict[str, int]:
    return {asked: counts[0], answered: counts[1], total: sum(counts)}


def _text(content: Any) -> str:
    return content if isinstance(content, str) else "".join(block.get("text", "") for block in content)
