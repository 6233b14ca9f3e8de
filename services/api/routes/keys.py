"""/v1/keys: who may call, and in which role."""

from fastapi import APIRouter, Request

from reflux import leaks
from reflux.views import KeyList, KeyMade, NewKey
from services.api import auth
from services.api.auth import Operator
from services.api.problems import ProblemError
from services.api.session import Database, Reading
from services.api.tables import KeyRow

router = APIRouter(prefix="/v1/keys", tags=["keys"])


@router.post("", status_code=201)
def create(_: Operator, session: Database, body: NewKey) -> KeyMade:
    """Make a key. This answer is the only place where it is ever seen."""
    if list(leaks.places(body.label)):
        raise ProblemError(
            422, "secret_in_label", "The label looks like a key itself.", "Say whose the key is, or what it is for."
        )
    secret = auth.new_key(session, body.role, body.label)
    row = session.get_one(KeyRow, auth.digest(secret))
    session.commit()
    return KeyMade(**auth.key_view(row).model_dump(), key=secret)


@router.get("")
def list_keys(_: Operator, session: Reading) -> KeyList:
    return KeyList(data=auth.all_keys(session))


@router.delete("/{key_id}", status_code=204)
def revoke(_: Operator, request: Request, session: Database, key_id: str) -> None:
    """From now on (at other API processes within a second) it opens nothing. Streams that it has opened go on to their end."""
    auth.revoke(session, key_id)
    session.commit()
    request.app.state.keys.forget()
