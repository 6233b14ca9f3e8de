"""What can be known of a teacher before it is paid: its key, its terms, its price, and one tiny answer."""

import time
from collections.abc import Iterator

from botocore.exceptions import BotoCoreError

from reflux import prices
from reflux.errors import POLICIES, RefluxError
from reflux.secret import secret
from reflux.spec import RunSpec, Teacher
from services.teacher_worker.check import Check, failed
from services.teacher_worker.teachers import CallFailed, bedrock, recorded, teacher_for

CONNECTIVITY_PROMPT = "Generate a C struct for a TSN gate control list entry."
CONNECTIVITY_WAITS = (0.5, 1.0)  # seconds before the second and the third try


def teacher(spec: RunSpec) -> Iterator[Check]:
    teacher = spec.teacher
    if teacher.provider != "recorded":
        yield _credentials(teacher)
        yield _terms(teacher)
        yield _price(spec)
    elif teacher.answers_uri:
        yield _recorded(teacher.answers_uri)
        return
    yield _not_asked(teacher) if teacher.skip_check else _asked(spec)


def _not_asked(teacher: Teacher) -> Check:
    try:
        teacher_for(teacher)
    except RefluxError as error:
        return failed("teacher", error)
    return Check("teacher", "warning", "not asked, as teacher.skip_check says")


def _asked(spec: RunSpec) -> Check:
    """One tiny call, with up to two more where that may help."""
    teacher = spec.teacher
    tiny = teacher.model_copy(update={"max_teacher_tokens": 256})
    trouble = None
    for wait in (*CONNECTIVITY_WAITS, None):
        try:
            client = teacher_for(teacher)
            with client.limiter.slot():
                reply = client.converse(tiny, spec.prompts.system, CONNECTIVITY_PROMPT)
            return Check("teacher", "ok", f"{teacher.model} answered with {reply.output_tokens} tokens")
        except RefluxError as error:
            return failed("teacher", error)
        except CallFailed as error:
            trouble = error
            if wait is None or error.trouble == "refused":
                break
            time.sleep(wait)
    assert trouble is not None
    place = f"{teacher.model} at {teacher.endpoint_url or teacher.region}"
    if trouble.trouble == "refused" and teacher.provider == "recorded":
        return Check("teacher", "ok", "the recorded teacher is there")
    if trouble.trouble == "refused":
        hint = "Correct what the provider names, such as teacher.model, teacher.temperature or teacher.max_teacher_tokens."
        return Check("teacher", "failed", f"{place} refused the test prompt: {trouble.message}", hint, "invalid_spec")
    return Check("teacher", "failed", f"{place}: {trouble.message}", POLICIES[trouble.trouble].hint, trouble.trouble)


def _recorded(uri: str) -> Check:
    try:
        recording = recorded.read(uri)
    except RefluxError as error:
        return failed("teacher", error)
    return Check("teacher", "ok", f"{len(recording)} prompts with answers in {uri}")


def _credentials(teacher: Teacher) -> Check:
    name = "credentials of the teacher"
    if teacher.provider == "openai":
        if secret("OPENAI_API_KEY"):
            return Check(name, "ok", "OPENAI_API_KEY is set")
        if teacher.endpoint_url:
            return Check(name, "ok", "OPENAI_API_KEY is not set: no key is sent")
        return Check(name, "failed", "OPENAI_API_KEY is not set", "Set it for the teacher workers.", "no_credentials")
    if secret("BEDROCK_API_KEY"):
        return Check(name, "ok", "BEDROCK_API_KEY is set")
    hint = POLICIES["no_credentials"].hint
    try:
        found = bedrock.open_session(teacher).get_credentials()
    except BotoCoreError as error:
        return Check(name, "failed", str(error), hint, "no_credentials")
    if found is None:
        return Check(name, "failed", "AWS credentials were not found", hint, "no_credentials")
    return Check(name, "ok", f"AWS credentials from {found.method}")


def _terms(teacher: Teacher) -> Check:
    name = "terms of the teacher"
    if teacher.terms_acknowledged:
        return Check(name, "ok", "acknowledged")
    hint = "Read them, then set teacher.terms_acknowledged: true."
    return Check(name, "warning", "the provider's terms may forbid training on its answers", hint)


def _price(spec: RunSpec) -> Check:
    name, teacher = "price of the teacher", spec.teacher
    given = teacher.input_usd_per_million is not None and teacher.output_usd_per_million is not None
    if given or prices.find(teacher.model):
        return Check(name, "ok", "known")
    hint = "Set teacher.input_usd_per_million and teacher.output_usd_per_million; 0 for a teacher of your own."
    if spec.limits.max_teacher_cost_usd is not None:
        message = f"that of {teacher.model} is not known, so limits.max_teacher_cost_usd could not be kept"
        return Check(name, "failed", message, hint, "invalid_spec")
    return Check(name, "warning", f"that of {teacher.model} is not known: its calls count as free", hint)
