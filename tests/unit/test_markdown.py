"""Escaping for GitHub: what is shown is what was written, and it is only shown."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from ci.markdown import LOG_LINE_LIMIT, clean, code, details, fence, length, link, table, text

ZERO_WIDTH_SPACE = "\u200b"


def seen(markdown: str) -> str:
    """The text that a reader sees, without the zero-width spaces; formulas are not drawn, so spans are just dropped."""
    shown = []
    for token in MarkdownIt("gfm-like").parse(f"| a |\n| --- |\n| {markdown} |"):
        shown += [child.content for child in token.children or [] if child.type in {"text", "code_inline"}]
    return "".join(shown[1:]).replace(ZERO_WIDTH_SPACE, "")


prose = st.lists(st.sampled_from(list("`|<>[]()*_~#@$\\!&:-+=.1a ")), max_size=30).map("".join)


@settings(max_examples=150, deadline=None)
@given(words=prose)
def test_text_reads_as_it_was_written(words):
    assert seen(text(words)) == " ".join(words.split())


@settings(max_examples=150, deadline=None)
@given(words=prose)
def test_code_reads_as_it_was_written(words):
    assert seen(code(words)) == (" ".join(words.split()) or "–")


@pytest.mark.parametrize(
    "words", ["1. one", "- item", "# head", "+ plus", "---", "===", "10) ten", "> quote", "a\n- b"]
)
def test_text_begins_no_block_in_a_list(words):
    kinds = [token.type for token in MarkdownIt("gfm-like").parse(f"- {text(words)}")]
    opened = ["bullet_list_open", "list_item_open", "paragraph_open", "inline"]
    assert kinds == [*opened, "paragraph_close", "list_item_close", "bullet_list_close"]


@pytest.mark.parametrize("words", ["2.1 % worse than it was (1.93 °C)", "New York's, 60-day, a/b = c; d!", "p < 0.05"])
def test_plain_prose_is_left_as_it_is(words):
    assert text(words).replace("&lt;", "<") == words


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ("@octocat", "@\u200boctocat"),
        ("#12", "\\#\u200b12"),
        ("GH-12", "GH-\u200b12"),
        ("https://x.example", "https:\u200b//x.example"),
        ("www.x.example", "www.\u200bx.example"),
        (":shipit:", ":\u200bshipit:"),
        ("commit deadbeef1 is", "commit `deadbeef1` is"),
        ("0.12345678", "0.12345678"),
        ("at 12:30:45", "at 12:30:45"),
        ("$x$", "<span>$</span>x<span>$</span>"),
        ("&lt;b&gt; &#64;octocat", "&amp;lt;b&amp;gt; &amp;\\#\u200b64;octocat"),
        ("a [b](c)", "a \\[b\\](c)"),
    ],
)
def test_what_github_would_act_on_is_broken(words, shown):
    assert text(words) == shown


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ("a\r\n\tb\u2028c\u00a0d", "a b c d"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\u202edetorre\u202c", "�detorre�"),
        ("a\x00b\x07c\ud800", "a�b�c�"),
        ("\u200bz\ufeff", "�z�"),
        ("x" * 81, "x" * 79 + "…"),
        ("ab " * 200, ("ab " * 100).rstrip() + "…"),
    ],
)
def test_hidden_characters_show_and_long_words_end(words, shown):
    assert clean(words) == shown


def test_a_log_keeps_its_indentation_and_loses_its_colours():
    assert fence(["\x1b[1mTraceback\x1b[0m", "  File", "\tx"]) == "```text\nTraceback\n  File\n    x\n```"


def test_a_fence_is_longer_than_any_backticks_in_it():
    assert fence(["a ``` b", "`````"]) == "``````text\na ``` b\n`````\n``````"


def test_a_line_of_a_log_is_one_line_of_limited_length():
    assert fence(["a\nb"]) == "```text\na b\n```"
    assert len(fence(["x" * 10_000]).splitlines()[1]) == LOG_LINE_LIMIT


def test_a_log_calls_nobody():
    assert "@\u200boctocat" in fence(["by @octocat"])


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("http://127.0.0.1:8080/#/runs/a?b=c&d=e", "http://127.0.0.1:8080/#/runs/a?b=c&amp;d=e"),
        ("https://x.example/a b)c", "https://x.example/a%20b%29c"),
        ("https://x.example/%20", "https://x.example/%20"),
        ("https://user:secret@x.example/", "https://x.example/"),
        ("http://[::1]:80/", "http://[::1]:80/"),
        ("https://x.example/é|*<", "https://x.example/%C3%A9%7C%2A%3C"),
    ],
)
def test_an_address_is_encoded_where_it_could_end_early(url, address):
    assert link("run", url) == f"[run]({address})"
    assert MarkdownIt("gfm-like").render(link("run", url)).count("<a href=") == 1


@pytest.mark.parametrize(
    "url", ["javascript:alert(1)", "data:text/html,x", "x", "http://", "https://a b/", "http://x:y/", "//x.example"]
)
def test_what_is_no_web_address_is_shown_as_text(url):
    assert link("run", url).startswith("run: ")
    assert "<a" not in MarkdownIt("gfm-like").render(link("run", url))


def test_an_address_that_is_too_long_is_shown_cut():
    assert link("run", "https://x.example/" + "a" * 2000).startswith("run: ")


def test_a_table_with_a_crooked_row_is_refused():
    with pytest.raises(ValueError, match="expected 2 cells; found 1"):
        table(["a", "b"], [["1"]], "ll")


def test_a_folded_part_holds_markdown():
    assert "<strong>x</strong>" in MarkdownIt("gfm-like").render(details("more", "**x**"))


def test_length_counts_as_javascript_does():
    assert length("a😀") == 3
