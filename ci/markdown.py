"""GitHub Markdown that nothing from outside can break out of: escaped text, code, links, tables, folded parts.

Everything that somebody else chose (a title, a branch, a series, a log line, a message) passes through here. GitHub
looks for mentions, references and addresses in the text that is left after Markdown, so a backslash does not stop them
(github/markup, issue 1168); a zero-width space does.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from urllib.parse import quote, urlsplit

BODY_LIMIT = 65_536
"""Characters that GitHub takes in a comment, or an issue."""
TEXT_LIMIT = 300
WORD_LIMIT = 80
LOG_LINE_LIMIT = 300
URL_LIMIT = 1000
EXPANSION = 3

_ZERO_WIDTH_SPACE = "\u200b"
_ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
_LONG_WORD = re.compile(rf"\S{{{WORD_LIMIT + 1},}}")
_PINGS = r"@(?=\w)|!(?=\[)|cml(?=\.dev|\s*watermark)"
"""A mention, which calls a person even out of a quoted e-mail; the image by which CML knows its own comment."""
_PING = re.compile(_PINGS, re.IGNORECASE)
_ACTIVE = re.compile(
    rf"{_PINGS}|\b(?:mailto|xmpp):|#(?=\d)|\bGH-(?=\d)|:(?=//)|www\.|:(?=[+-]1:|[a-z][\w+-]*:)",
    re.IGNORECASE,
)
"""Besides: issue references, addresses, emoji; each is broken by a zero-width space after the match."""
_HASH = re.compile(r"(?<!\w)(?<!\d\.)([0-9a-f]{7,64})(?!\w)", re.IGNORECASE)
"""What GitHub would take for a commit; as code it is left alone, and can still be copied."""
_BLOCK = re.compile(r"^([-+=]|\d{1,9}[.)](?=\s|$))")
_ESCAPES = str.maketrans(
    {character: f"\\{character}" for character in "\\`*_[]~#"}
    | {"&": "&amp;", "<": "&lt;", ">": "&gt;", "|": "&#124;", "$": "<span>$</span>"}
)
"""The span is GitHub's own advice for a dollar that begins no formula. An entity for | holds inside a table, too."""
_PLAIN_CODE = re.compile(r"[\w./:+=-]+")
_HOST = re.compile(r"[\w.-]+|[0-9a-f:.]+", re.IGNORECASE)


def text(value: str, limit: int = TEXT_LIMIT) -> str:
    """Prose of others on one line, of at most ``limit`` characters before it is escaped; reads as it was written."""
    pieces = _HASH.split(_fitting(value, limit))
    escaped = [f"`{piece}`" if index % 2 else _escape(piece) for index, piece in enumerate(pieces)]
    return _BLOCK.sub(lambda found: f"{found[0][:-1]}\\{found[0][-1]}", "".join(escaped))


def code(value: str, limit: int = TEXT_LIMIT) -> str:
    """A name, a branch, a value: in code, on one line; a dash when empty."""
    shown = _fitting(value, limit)
    if not shown:
        return "–"
    if _PLAIN_CODE.fullmatch(shown) and not _ACTIVE.search(shown):
        return f"`{shown}`"
    return f"<code>{_escape(shown)}</code>"


def fence(lines: Iterable[str]) -> str:
    """Lines of a log as a code block, whose fence is longer than any run of backticks in it."""
    shown = [_ended(_visible(line[: 4 * LOG_LINE_LIMIT]).rstrip(), LOG_LINE_LIMIT) for line in lines]
    body = _PING.sub(_broken, "\n".join(shown))
    longest = max((len(run) for run in re.findall("`+", body)), default=0)
    marks = "`" * max(3, longest + 1)
    return f"{marks}text\n{body}\n{marks}"


def link(label: str, url: str) -> str:
    """A link when ``url`` is a plain http or https address, else label and address as text; the label is ours."""
    address = _address(url)
    return f"[{label}]({address})" if address else f"{label}: {code(url)}"


def _address(url: str) -> str:
    """The address, encoded so that it ends where it ends; empty when it is none. A user and password are left out."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return ""
    if parts.scheme not in {"http", "https"} or not _HOST.fullmatch(host) or not host.isascii():
        return ""
    rest = parts._replace(scheme="", netloc="").geturl()
    path = quote(rest, safe="/%:=?&~#+!,;@.-", errors="replace").replace("&", "&amp;")
    place = f"[{host}]" if ":" in host else host
    address = f"{parts.scheme}://{place}{f':{port}' if port else ''}{path}"
    return address if len(address) <= URL_LIMIT else ""


def table(headers: Sequence[str], rows: Iterable[Sequence[str]], align: str) -> str:
    """A table of cells that are Markdown already. align: one of `l` and `r` for each column."""
    rule = ["---:" if side == "r" else "---" for side in align]
    lines = [headers, rule, *rows]
    for line in lines:
        if len(line) != len(headers):
            raise ValueError(f"a table row: expected {len(headers)} cells; found {len(line)}: {line}")
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def details(summary: str, *blocks: str) -> str:
    """A folded part; ``summary`` is ours, and plain text."""
    body = "\n\n".join(block for block in blocks if block)
    return f"<details>\n<summary>{summary}</summary>\n\n{body}\n\n</details>"


def bullets(items: Iterable[str]) -> str:
    return "\n".join(f"- {item}" for item in items)


def clean(value: str, limit: int = TEXT_LIMIT) -> str:
    """On one line of at most ``limit`` characters, no word above WORD_LIMIT; nothing that hides or calls anybody.

    The zero-width spaces that break a mention come on top of the limit.
    """
    line = " ".join(_visible(value[: 4 * limit]).split())
    line = _LONG_WORD.sub(lambda word: f"{word[0][: WORD_LIMIT - 1]}…", line)
    return _PING.sub(_broken, _ended(line, limit))


def length(report: str) -> int:
    """In UTF-16 units, as JavaScript counts: never less than the characters that GitHub counts."""
    return len(report.encode("utf-16-le")) // 2


def _ended(line: str, limit: int) -> str:
    return line if len(line) <= limit else f"{line[: limit - 1].rstrip()}…"


def _visible(value: str) -> str:
    """Colour codes out, tabs as spaces, other control, direction and unpaired surrogate characters as �."""
    plain = _ANSI.sub("", value).expandtabs(4)
    if plain.isprintable():
        return plain
    spaced = (" " if character.isspace() else character for character in plain)
    return "".join("�" if unicodedata.category(one) in {"Cc", "Cf", "Cs"} else one for one in spaced)


def _fitting(value: str, limit: int) -> str:
    """Cut until it is not more than EXPANSION times ``limit`` when escaped: one dollar becomes 14 characters."""
    shown = clean(value, limit)
    while len(_escape(shown)) > EXPANSION * limit:
        shown = clean(shown, len(shown) // 2)
    return shown


def _escape(value: str) -> str:
    return _ACTIVE.sub(_broken, value).translate(_ESCAPES)


def _broken(found: re.Match[str]) -> str:
    return found[0] + _ZERO_WIDTH_SPACE
