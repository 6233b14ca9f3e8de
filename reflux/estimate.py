"""What a run will ask its teacher for, before it begins: from the spec, and once there is one from the dataset.

`calls`, tokens and `cost_usd` are what is to be expected; `most_calls` and `most_cost_usd` are what the spec allows.
docs/teachers.md says what stands behind the numbers here.
"""

from reflux.prices import usd
from reflux.spec import RunSpec
from reflux.summary import Estimate

CHARACTERS_A_TOKEN = 3.5  # English and C, about
FEWEST_CHARACTERS_A_TOKEN = 2.0
PROMPT_CHARACTERS = 300  # where the prompts are not known yet
FILLED = 0.5  # of generation.max_new_tokens: the student is given room for twice of what it is to learn to write
FINDINGS_TOKENS = 250  # of a correction's question, besides prompt and attempt: findings, and what is asked
MOST_FINDINGS_TOKENS = 2000
POOR = 0.3  # of the answers after the first epoch's training
STILL_POOR = 0.6  # of those, an epoch later
ASKED_AGAIN = 0.25  # of the corrections


def estimate(spec: RunSpec, practice: int | None = None, practice_characters: int = 0, done: int = 0) -> Estimate | None:
    """None for a recipe without a teacher. `practice`: prompts that there really are; left out: as many as the spec wants.

    `done`: epochs that a fork takes over, with what was taught and corrected in them.
    """
    if spec.recipe != "distill":
        return None
    teacher, room = spec.teacher, spec.generation.max_new_tokens
    prompts = spec.prompts.practice if practice is None else practice
    taught = min(prompts, spec.teaching.max_prompts or prompts) if spec.teaching.enabled and not done else 0
    at_once = min(prompts, spec.refining.max_corrections)
    rounds = range(done, spec.refining.max_epochs - 1)  # corrections of the last epoch are not bought
    corrected = sum(min(POOR * STILL_POOR**n * prompts, at_once) for n in rounds) * (1 + ASKED_AGAIN)
    calls, most = round(taught + corrected), taught + 2 * len(rounds) * at_once
    known = practice_characters / prompts if practice_characters and prompts else PROMPT_CHARACTERS
    characters = known + len(spec.prompts.system)
    answer = min(FILLED * room, teacher.max_teacher_tokens)
    tokens_in = round(calls * characters / CHARACTERS_A_TOKEN + corrected * (answer + FINDINGS_TOKENS))
    tokens_out = round(calls * answer)
    # The second time a correction is asked for, its question holds the attempt, the refused correction and the findings of both
    again = room + teacher.max_teacher_tokens + 2 * MOST_FINDINGS_TOKENS
    most_in = round(most * characters / FEWEST_CHARACTERS_A_TOKEN + (most - taught) * again)
    if teacher.provider == "recorded" and teacher.answers_uri:  # nobody is asked
        tokens_in = tokens_out = most_in = most_out = 0
    else:
        most_out = most * teacher.max_teacher_tokens
    return Estimate(
        calls=calls,
        input_tokens=tokens_in,
        output_tokens=tokens_out,
        cost_usd=round(usd(teacher, tokens_in, tokens_out), 4),
        most_calls=most,
        most_cost_usd=round(usd(teacher, most_in, most_out), 4),
    )
