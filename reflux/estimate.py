"""What a run will ask its teacher for, before it begins: from the spec, and once there is one from the dataset."""

from reflux.prices import usd
from reflux.spec import RunSpec
from reflux.summary import Estimate

CHARACTERS_A_TOKEN = 3.5  # English and C, about
PROMPT_CHARACTERS = 300  # where the prompts are not known yet
ATTEMPT_TOKENS = 900  # of a correction's question besides the prompt: the student's code and what was found in it
ANSWER_TOKENS = 500  # of one documented function
POOR = 0.5  # of the answers in the first epoch
STILL_POOR = 0.6  # of those, an epoch later
ASKED_AGAIN = 0.25  # of the corrections


def estimate(spec: RunSpec, practice: int | None = None, practice_characters: int = 0) -> Estimate | None:
    """None for a recipe without a teacher. `practice`: prompts that there really are; left out: as many as the spec wants."""
    if spec.recipe != "distill":
        return None
    prompts = spec.prompts.practice if practice is None else practice
    taught = min(prompts, spec.teaching.max_prompts or prompts) if spec.teaching.enabled else 0
    at_once = min(prompts, spec.refining.max_corrections)
    rounds = spec.refining.max_epochs - 1  # corrections of the last epoch are not bought
    corrected = sum(min(POOR * STILL_POOR**n * prompts, at_once) for n in range(rounds)) * (1 + ASKED_AGAIN)
    prompt = (practice_characters / prompts if practice_characters and prompts else PROMPT_CHARACTERS) + len(spec.prompts.system)
    asked = prompt / CHARACTERS_A_TOKEN
    answer = min(ANSWER_TOKENS, spec.teacher.max_teacher_tokens)
    calls, most = round(taught + corrected), taught + 2 * rounds * at_once
    tokens_in, tokens_out = round(calls * asked + corrected * ATTEMPT_TOKENS), calls * answer
    most_in = round(most * (asked + 2 * ATTEMPT_TOKENS))
    return Estimate(
        calls=calls,
        input_tokens=tokens_in,
        output_tokens=tokens_out,
        cost_usd=round(usd(spec.teacher, tokens_in, tokens_out), 4),
        most_calls=most,
        most_cost_usd=round(usd(spec.teacher, most_in, most * spec.teacher.max_teacher_tokens), 4),
    )
