"""Training examples and prompts out of source files: four templates for functions, completion for files without any."""

import random
import re
from collections.abc import Sequence

from reflux.records import Example, Lineage, Message, digest
from services.teacher_worker.extract import Function, functions, language_of
from services.teacher_worker.ingest import SourceFile

SHORTEST_FILE = 200  # characters; shorter files without functions are not worth completing
LONGEST_COMPLETION = 6000  # characters of a file that a completion shows and asks for

DOMAINS = {
    "tsn": "Time-Sensitive Networking (TSN)",
    "avb": "Audio Video Bridging (AVB)",
    "carla": "CARLA driving simulator",
    "ptp": "precise time (PTP)",
    "gptp": "generalized precise time (gPTP)",
    "can": "CAN bus",
    "generic": "embedded",
}
LANGUAGES = {"c": "C", "cpp": "C++"}

TEMPLATES = (
    "Write a {language} function for {domain} software.\n\nPurpose: {job}\nSignature: `{signature}`",
    "Implement `{name}` in {language}, as part of {domain} code. Its job: {job}\n\nSignature:\n```{tag}\n{signature};\n```",
    "In {domain} software there is a function `{signature}`. Its job: {job}\n\nWrite its complete {language} definition.",
    "Task: {job}\n\nWrite the {language} function that does this in {domain} software: `{signature}`. Comment what is not plain.",
)
COMPLETE = "Complete this {language} file of {domain} software. Continue exactly where it stops:\n```{tag}\n{head}\n```"


def examples(file: SourceFile, system: str, seed: int) -> list[tuple[Example, str | None]]:
    """The examples of one file, without their family, each with the plain name of its function, or None: a completion.

    Empty if the file holds no function and is too short to complete.
    """
    found = functions(file.text, file.path)
    if found:
        return [(_of_function(file, function, system), function.name.split("::")[-1]) for function in found]
    if len(file.text.strip()) > SHORTEST_FILE:
        return [(_completion(file, system, seed), None)]
    return []


def instruction(function: Function, domain: str) -> str:
    """The task that the function answers, in one of four wordings, chosen by what the function is."""
    choice = int(digest(function.name, function.signature, domain), 16) % len(TEMPLATES)
    signature = function.signature
    if function.scope:
        signature += f" (in {'::'.join(function.scope)})" if choice in (0, 3) else ""
    return TEMPLATES[choice].format(
        language=LANGUAGES[function.language],
        tag=function.language,
        domain=domain_title(domain),
        name=function.name,
        signature=signature,
        job=job(function),
    )


def domain_title(domain: str) -> str:
    return DOMAINS.get(domain, domain.replace("_", " ").replace("-", " "))


def job(function: Function) -> str:
    """What the function is for: the first sentence of its comment, else the words of its name. Ends with a full stop."""
    words = _brief(function.comment) or f"do what the name says: {_spoken(function.name)}"
    return words[0].upper() + words[1:].rstrip(" .:;,") + "."


def _of_function(file: SourceFile, function: Function, system: str) -> Example:
    return _example(
        kind="fn",
        file=file,
        lines=function.lines,
        texts=(system, instruction(function, file.domain), f"```{function.language}\n{function.text.strip()}\n```"),
        code=function.text,
    )


def _completion(file: SourceFile, system: str, seed: int) -> Example:
    """The file cut in two at a line in its middle half, chosen by the file and the seed."""
    lines = _first_lines(file.text.strip("\n"), LONGEST_COMPLETION)
    chosen = random.Random(f"{seed}{file.path}{file.text}")  # noqa: S311 - a reproducible choice, not a secret
    cut = chosen.randint(max(1, len(lines) // 4), max(1, 3 * len(lines) // 4))
    language = language_of(file.text, file.path)
    head, tail = ("\n".join(part) for part in (lines[:cut], lines[cut:]))
    if not tail.strip():
        middle = len(head) // 2
        head, tail = head[:middle], head[middle:]
    ask = COMPLETE.format(language=LANGUAGES[language], tag=language, domain=domain_title(file.domain), head=head)
    return _example(
        kind="rest",
        file=file,
        lines=(1, len(lines)),
        texts=(system, ask, f"```{language}\n{tail}\n```"),
        code=file.text,
    )


def _example(*, kind: str, file: SourceFile, lines: tuple[int, int], texts: Sequence[str], code: str) -> Example:
    sha = digest(code)
    system, user, assistant = texts
    return Example(
        id=f"{kind}-{digest(file.domain, file.path, str(lines[0]), sha)}",
        messages=(
            Message(role="system", content=system),
            Message(role="user", content=user),
            Message(role="assistant", content=assistant),
        ),
        domain=file.domain,
        family="",
        lineage=Lineage(origin="source", path=file.path, lines=lines, licence=file.licence, sha256=sha),
    )


def _first_lines(text: str, characters: int) -> list[str]:
    lines: list[str] = []
    total = 0
    for line in text.split("\n"):
        total += len(line) + 1
        if lines and total > characters:
            break
        lines.append(line[:characters])
    return lines


MARKERS = re.compile(r"^\s*(?:/\*[*!]*<?|\*+/?|//[/!]*<?)|\*+/\s*$", re.MULTILINE)
BRIEF = re.compile(r"[@\\]brief\s+")
SENTENCE = re.compile(r"(?<=[a-z)\d][.!?])\s|\n\s*\n|\n\s*[@\\-]|\n\s*\w+:\s")


# Kernel-doc: `name() - what it does`, or the name on a line of its own and a `Description:` below
NAME_FIRST = re.compile(r"^(?:[\w:~]+(?:\(\))?\s+-+\s+|\w*_\w+(?:\(\))?\s*(?::|\n)\s*)")
DESCRIPTION = re.compile(r"\bDescription\s*:\s*")


def _brief(comment: str) -> str:
    """The first sentence of a comment, in one line, at most 240 characters; nothing if it says nothing."""
    text = MARKERS.sub("", comment).strip(" \t\n*=-_#/")
    text = text[found.end() :] if (found := BRIEF.search(text)) else text
    text = NAME_FIRST.sub("", text)
    first = _first_sentence(text)
    if not first and (found := DESCRIPTION.search(text)):
        first = _first_sentence(text[found.end() :])
    return first if len(first) <= 240 else first[:240].rsplit(" ", 1)[0]


def _first_sentence(text: str) -> str:
    first = " ".join(SENTENCE.split(text, maxsplit=1)[0].split())
    says_nothing = len(first) < 8 or not re.search(r"[A-Za-z]{3}", first) or first.startswith(("@", "\\"))
    return "" if says_nothing else first


def _spoken(name: str) -> str:
    """`Gate::setOpenState` as `set open state`."""
    last = name.rsplit("::", maxsplit=1)[-1].replace("~", "destroy ")
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|_+", " ", last).split()
    return " ".join(word if word.isupper() and len(word) > 1 else word.lower() for word in words) or last
