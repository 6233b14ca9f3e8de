"""What the compiler may see of an answer: no file but the allowed headers, no directive that would silence it.

The translation phases before tokens (trigraphs, spliced lines, comments) are carried out for looking only. What is refused
is blanked in place, so lines and columns stay those of the student's text.
"""

import re
from bisect import bisect_right
from collections.abc import Iterator, Set
from dataclasses import dataclass, field

from services.evaluator.extract_code import Language

STANDARD_HEADERS = frozenset(
    """
    assert.h complex.h ctype.h errno.h fenv.h float.h inttypes.h iso646.h limits.h locale.h math.h setjmp.h signal.h
    stdalign.h stdarg.h stdatomic.h stdbool.h stddef.h stdint.h stdio.h stdlib.h stdnoreturn.h string.h tgmath.h threads.h
    time.h uchar.h wchar.h wctype.h arpa/inet.h endian.h fcntl.h ifaddrs.h net/ethernet.h net/if.h net/if_arp.h netdb.h
    netinet/ether.h netinet/in.h netinet/ip.h netinet/tcp.h netinet/udp.h netpacket/packet.h poll.h pthread.h sched.h
    semaphore.h strings.h sys/epoll.h sys/eventfd.h sys/ioctl.h sys/mman.h sys/poll.h sys/queue.h sys/select.h sys/socket.h
    sys/stat.h sys/time.h sys/timerfd.h sys/timex.h sys/types.h sys/uio.h sys/un.h syslog.h unistd.h byteswap.h getopt.h
    linux/can.h linux/errqueue.h linux/ethtool.h linux/if.h linux/if_bridge.h linux/if_ether.h linux/if_link.h
    linux/if_packet.h linux/if_vlan.h linux/net_tstamp.h linux/netlink.h linux/pkt_cls.h linux/pkt_sched.h linux/ptp_clock.h
    linux/rtnetlink.h linux/sockios.h linux/types.h
    """.split()  # noqa: SIM905 a list of words to read
)
STANDARD_CXX_HEADERS = frozenset(
    """
    algorithm any array atomic bitset cassert cctype cerrno cfloat charconv chrono cinttypes climits cmath complex
    condition_variable csetjmp csignal cstdarg cstddef cstdint cstdio cstdlib cstring ctime cwchar deque exception
    filesystem forward_list fstream functional future initializer_list iomanip ios iosfwd iostream istream iterator limits
    list locale map memory mutex new numeric optional ostream queue random ratio regex set shared_mutex sstream stack
    stdexcept streambuf string string_view system_error thread tuple type_traits typeindex typeinfo unordered_map
    unordered_set utility valarray variant vector
    """.split()  # noqa: SIM905 a list of words to read
)

_TRIGRAPHS = {"=": "#", "/": "\\", "'": "^", "(": "[", ")": "]", "!": "|", "<": "{", ">": "}", "-": "~"}
_UNUSUAL = re.compile(r"\?\?[=/'()!<>-]|\\[ \t\f\v]*\n")
_COMMENT = r"(?P<comment>//[^\n]*|/\*.*?(?:\*/|\Z))"
_STRING = r'"(?:\\.|[^"\\\n])*"?'
_CHARACTER = r"'(?:\\.|[^'\\\n])*'?"
_RAW = r'\b(?:u8|[uUL])?R"(?P<tag>[^\s()\\"]{0,16})\(.*?\)(?P=tag)"'
_TOKENS = {
    "c": re.compile(f"{_COMMENT}|(?P<literal>{_STRING}|{_CHARACTER})", re.DOTALL),
    "c++": re.compile(rf"{_COMMENT}|(?P<number>(?<!\w)\d(?:'?[\w.])*)|(?P<literal>{_RAW}|{_STRING}|{_CHARACTER})", re.DOTALL),
}
_DIRECTIVE = re.compile(r"^[ \t\f\v]*(?:#|%:)[ \t\f\v]*(?P<name>\w*)(?P<rest>[^\n]*)$", re.MULTILINE)
_HEADER = re.compile(r'\s*(?:<([^<>\n]+)>|"([^"\n]+)")\s*$')
_HAS_INCLUDE = re.compile(r'__has_(?:include_next|include|embed)\b(?:\s*\(\s*(?:<([^<>\n]*)>|"([^"\n]*)")\s*\))?')
_PRAGMA_OPERATOR = re.compile(r"\b_Pragma\b(?:\s*\([^()\n]*\))?")
_REFUSED_PRAGMA = re.compile(r"\s*(?:clang\b|GCC\b(?!\s+(?:ivdep|unroll|optimize|push_options|pop_options|poison)\b))")
_SILENCING = re.compile(r"\b(?:GCC|clang)\s+(?:diagnostic|system_header)\b|\b_P\w*\s*(?:##|%:%:)")
_READING = {"include", "include_next", "import", "embed"}
_CONDITIONALS = {"if", "ifdef", "ifndef", "elif", "elifdef", "elifndef", "else"}
_MARK = "#error R"


@dataclass(frozen=True)
class Finding:
    """Something that was refused, or is not to be passed over. `line` and `column` are 1-based."""

    rule: str
    message: str
    line: int
    column: int


@dataclass(frozen=True)
class Source:
    """`text` is for the compiler. In `marked` lines an #error stands for a refused header; `uncounted` had no room for one."""

    text: str
    findings: tuple[Finding, ...] = ()
    marked: dict[int, Finding] = field(default_factory=dict)
    uncounted: tuple[Finding, ...] = ()
    conditional: bool = False
    empty: bool = False


def prepare(code: str, language: Language, own_headers: Set[str] = frozenset()) -> Source:
    """Look through the code as a preprocessor would, and refuse what it must not do. `code` has LF line ends."""
    logical, offsets = _logical(code, language)
    bare, skeleton = _views(logical, language)
    page = _Page(code, offsets, language == "c")
    allowed = (STANDARD_HEADERS | STANDARD_CXX_HEADERS if language == "c++" else STANDARD_HEADERS) | own_headers
    for match in _SILENCING.finditer(bare):
        page.note("warnings-off", f"the compiler's warnings switched off by `{' '.join(match[0].split())}`", match.start())
    for match in _PRAGMA_OPERATOR.finditer(skeleton):
        # A semicolon stays: with blanks alone what follows could begin a line, or a backslash before splice two lines.
        page.blank(match.start(), match.end(), ";")
        bare = f"{bare[: match.start()]};{' ' * (len(match[0]) - 1)}{bare[match.end() :]}"
    directives = {match.start(): match for match in _DIRECTIVE.finditer(bare)}
    if 'R"' in logical:
        # A raw string ends with the line where it stands in a directive: what might be one within it is taken for one.
        directives = {match.start(): match for match in _DIRECTIVE.finditer(_views(logical, "c")[0])} | directives
    for match in directives.values():
        _directive(page, match, allowed)
    conditional = any(match["name"] in _CONDITIONALS for match in directives.values())
    for offset in [code.find("\0")] if "\0" in code else []:
        page.findings.append(page.at(offset, "nul-byte", "a NUL byte in the text"))
    return Source(
        page.text(), tuple(page.findings), page.marked, tuple(page.uncounted), conditional, not bare.strip(" \n\t\f\v\0")
    )


def only_lines(text: str, lines: Set[int]) -> str:
    """The text with all other lines blanked."""
    return "\n".join(line if number in lines else "" for number, line in enumerate(text.split("\n"), 1))


def skeleton(code: str, language: Language) -> str:
    """The code without comments and without the insides of literals; each line as long as it was."""
    blank = re.compile(r"[^\n]")
    return _TOKENS[language].sub(lambda match: blank.sub(" " if match["comment"] else "0", match[0]), code)


def _directive(page: "_Page", match: re.Match[str], allowed: Set[str]) -> None:
    name, rest = match["name"], match["rest"]
    start, stop = match.start() + len(match[0]) - len(match[0].lstrip(" \t\f\v")), match.end()
    if name in _READING:
        header = _HEADER.match(rest)
        wanted = (header[1] or header[2]).strip() if header else ""
        if name != "include" or wanted not in allowed:
            shown = f"`{wanted[:60]}`" if wanted else "what this directive names"
            page.refuse_header(f"{shown} is not among the headers that an answer may include", start, stop)
    elif name == "line" or name.isdigit():
        page.note("line-marker", "a line marker, which hides warnings and positions", start)
        page.blank(start, stop)
    elif name == "pragma" and _REFUSED_PRAGMA.match(rest):
        page.note("pragma", f"`#pragma {' '.join(rest.split())[:60]}` is not passed on to the compiler", start)
        page.blank(start, stop)
    elif name in ("if", "elif", "define"):
        for probe in _HAS_INCLUDE.finditer(rest):
            if (probe[1] or probe[2]) not in allowed:
                at = match.start("rest") + probe.start()
                page.note("has-include", "asks which files exist; the answer is always no", at)
                page.blank(at, at + len(probe[0]), "0")


def _logical(code: str, language: Language) -> tuple[str, list[int] | None]:
    """The text after trigraphs (C) and spliced lines, and where each character stands in `code` (None: where it stood)."""
    if not _UNUSUAL.search(code):
        return code, None
    characters, offsets = list[str](), list[int]()
    i = 0
    while i < len(code):
        char, width = code[i], 1
        if language == "c" and char == "?" and code[i + 1 : i + 2] == "?" and code[i + 2 : i + 3] in _TRIGRAPHS:
            char, width = _TRIGRAPHS[code[i + 2]], 3
        if char == "\\":
            splice = re.compile(r"[ \t\f\v]*\n").match(code, i + width)
            if splice:
                i = splice.end()
                continue
        characters.append(char)
        offsets.append(i)
        i += width
    offsets.append(len(code))
    return "".join(characters), offsets


def _views(logical: str, language: Language) -> tuple[str, str]:
    """The text without comments, and without the insides of literals too; each as long as the text itself."""

    def bare(match: re.Match[str]) -> str:
        return " " * len(match[0]) if match["comment"] else match[0].replace("\n", " ")

    def skeleton(match: re.Match[str]) -> str:
        return " " * len(match[0]) if match["comment"] or match["literal"] else match[0]

    tokens = _TOKENS[language]
    return tokens.sub(bare, logical), tokens.sub(skeleton, logical)


class _Page:
    """The student's text while it is blanked. Positions are offsets in the logical text."""

    def __init__(self, code: str, offsets: list[int] | None, trigraphs: bool) -> None:
        self._characters = list(code)
        self._trigraphs = trigraphs
        self._offsets = offsets
        self._starts = [0, *(match.end() for match in re.finditer("\n", code))]
        self.findings: list[Finding] = []
        self.marked: dict[int, Finding] = {}
        self.uncounted: list[Finding] = []

    def text(self) -> str:
        return "".join(self._characters).replace("\0", " ")

    def at(self, offset: int, rule: str, message: str) -> Finding:
        line = bisect_right(self._starts, offset)
        return Finding(rule, message, line, offset - self._starts[line - 1] + 1)

    def note(self, rule: str, message: str, start: int) -> None:
        self.findings.append(self.at(self._offset(start), rule, message))

    def refuse_header(self, message: str, start: int, stop: int) -> None:
        """Blank the directive; where it stands in live code, the compiler is to count an error there."""
        first = self._offset(start)
        finding = self.at(first, "header", message)
        self.findings.append(finding)
        for segment in self.blank(start, stop):
            if len(segment) >= len(_MARK):
                self._characters[segment.start : segment.start + len(_MARK)] = _MARK
                self.marked[bisect_right(self._starts, segment.start)] = finding
                return
        self.uncounted.append(finding)

    def blank(self, start: int, stop: int, instead: str = "") -> list[range]:
        """Blank the characters [start, stop), but no line end and no splice; the stretches. `instead` stands where it began."""
        segments = list(self._segments(start, stop))
        for segment in segments:
            self._characters[segment.start : segment.stop] = " " * len(segment)
        if instead and segments and len(segments[0]) >= len(instead):
            self._characters[segments[0].start : segments[0].start + len(instead)] = instead
        return segments

    def _segments(self, start: int, stop: int) -> Iterator[range]:
        begin, end = -1, -1
        for at in range(start, stop):
            offset = self._offset(at)
            if offset != end or self._characters[offset] == "\n":
                if end > begin:
                    yield range(begin, end)
                begin = offset + (self._characters[offset] == "\n")
            end = offset + self._width(offset)
        if end > begin >= 0:
            yield range(begin, end)

    def _width(self, offset: int) -> int:
        """3 for a trigraph of C that stands for one character."""
        written = self._characters[offset : offset + 3]
        return 3 if self._trigraphs and written[:2] == ["?", "?"] and written[2:] and written[2] in _TRIGRAPHS else 1

    def _offset(self, at: int) -> int:
        return self._offsets[at] if self._offsets else at
