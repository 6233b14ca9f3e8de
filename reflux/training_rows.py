"""Rows of chat `messages` that users bring to train on: what one must have."""

from pydantic import BaseModel, ConfigDict, ValidationError

from reflux.records import Message


class Row(BaseModel):
    """What is read of a row; other keys are left alone."""

    model_config = ConfigDict(extra="ignore")

    messages: tuple[Message, ...]
    domain: str = "generic"


def checked(raw: bytes | str) -> Row | str:
    """The row that a line of JSON holds, or what is wrong with it."""
    try:
        row = Row.model_validate_json(raw)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        return f"{where}: {first['msg']}" if where else first["msg"]
    except UnicodeDecodeError:
        return "not UTF-8"
    roles = [message.role for message in row.messages]
    empty = next((i for i, message in enumerate(row.messages) if not message.content.strip()), None)
    if empty is not None:
        return f"messages.{empty}.content is empty"
    if "user" not in roles or roles[-1] != "assistant":
        return "`messages` needs a user turn, and ends with an assistant turn"
    return row
