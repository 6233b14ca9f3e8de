"""Protocol: does the code speak of what the prompt's domain is about? By words of identifiers, not by text."""

import re
from collections.abc import Mapping

from services.evaluator.rubric import Rubric
from services.evaluator.sheet import Sheet
from services.evaluator.tree import Name, Tree

_PIECES = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_PROMPT_SIGNS = {
    "tsn": r"\btsn\b|time[- ]sensitive|802\.1q(?:bv|av|bu|ci|cc|ch)\b|\bqbv\b|\bqav\b|time[- ]aware|gate control",
    "avb": r"\bavb\b|audio[ /]video bridging|\bavtp\b|802\.1qat\b|\bsrp\b|\b1722\b",
}


def domain_of(prompt: str, domain: str, words: Mapping[str, tuple[str, ...]]) -> str:
    """The domain of the prompt's row where the rubric has words for it, else the one that the text itself names, else ""."""
    if domain.lower() in words:
        return domain.lower()
    lowered = prompt.lower()
    for name in words:
        if re.search(_PROMPT_SIGNS.get(name, rf"\b{re.escape(name)}\b"), lowered):
            return name
    return ""


def score(tree: Tree, domain: str, rubric: Rubric) -> Sheet:
    """`domain` as domain_of gives it. Words of names in use count whole; those only declared or commented count half, once."""
    sheet = Sheet("protocol")
    if not domain:
        sheet.add("unknown-domain", "the prompt is of no domain that the rubric has words for", rubric.protocol_unknown_domain)
        return sheet
    words = rubric.words[domain]
    used, declared = _words_of_names(tree)
    commented = {word: comment.line for comment in reversed(tree.comments) for word in split(comment.text)}
    sheet.add("base", f"{rubric.protocol_words_wanted:g} words of {domain.upper()} wanted", rubric.protocol_full)
    whole = [word for word in words if word in used]
    mentioned = [word for word in words if word not in used and (word in declared or word in commented)]
    for word in whole:
        sheet.add("word", f"`{word}` in {used[word][0]}", 0.0, used[word][1])
    for word in mentioned:
        where = f"`{word}` in {declared[word][0]}, which nothing uses" if word in declared else f"`{word}` in a comment only"
        sheet.add("mentioned", where, 0.0, declared[word][1] if word in declared else commented[word])
    counted = len(whole) + rubric.protocol_mentioned_word * min(len(mentioned), rubric.protocol_mentioned_words_counted)
    short = max(0.0, rubric.protocol_words_wanted - counted)
    if short:
        others = ", ".join(word for word in words if word not in used)
        message = f"{short:g} of the words wanted are missing; names could speak of: {others}"
        sheet.add("missing", message, short * rubric.protocol_each_missing)
    return sheet


def split(name: str) -> tuple[str, ...]:
    """The words of a name or a text, lower-case: `gate_control_list`, `GateControlList`, `GCL_MAX`; plurals also as singulars."""
    words = [piece.lower() for piece in _PIECES.findall(name)]
    return (*words, *(_singular(word) for word in words if word.endswith("s") and len(word) > 3))


def _singular(word: str) -> str:
    return word[:-3] + "y" if word.endswith("ies") else word[:-1]


def _words_of_names(tree: Tree) -> tuple[dict[str, tuple[str, int]], dict[str, tuple[str, int]]]:
    """word -> (name, line) of names that are used, and of names that stand once, where they are declared."""
    used, declared = dict[str, tuple[str, int]](), dict[str, tuple[str, int]]()
    firsts = dict[str, Name]()
    for name in tree.names:
        firsts.setdefault(name.text, name)
    for name in firsts.values():
        target = declared if name.declares and tree.uses[name.text] < 2 else used
        for word in split(name.text):
            target.setdefault(word, (f"`{name.text}`", name.line))
    return used, declared
