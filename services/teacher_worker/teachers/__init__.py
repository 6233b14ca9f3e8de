"""The teachers: one way to ask, whoever answers.

- bedrock: Amazon Bedrock; Converse, or InvokeModel with a Messages body
- openai: any server that speaks OpenAI's chat completions
- recorded: answers of before; the user's own file, or the stack's stand-in behind Bedrock's wire
"""

from services.teacher_worker.teachers.call import CallFailed, Reply
from services.teacher_worker.teachers.client import Client, teacher_for

__all__ = ["CallFailed", "Client", "Reply", "teacher_for"]
