"""The gate's report: what a reader finds in it, whatever is judged and whoever chose the names."""

from __future__ import annotations

import itertools
import math
import re
import unicodedata
from datetime import datetime
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from ci.gate.comment import report_length
from ci.gate.report import RESERVE, render
from ci.markdown import BODY_LIMIT
from forecasting.judging.contests import Contest
from forecasting.judging.verdict import Reason
from records.judgement import Judgement, Links, PolicyChange
from tests.judgements import (
    blocked,
    contest,
    data,
    data_rejected,
    evaluation,
    first_model,
    folds,
    passing,
    task_failed,
    verdict,
    violation,
    without_production,
)

ENDINGS = {
    "passing": passing,
    "blocked": blocked,
    "first_model": first_model,
    "data_rejected": data_rejected,
    "task_failed": task_failed,
}
OURS = {
    *("h2", "p", "strong", "ul", "li", "table", "thead", "tbody", "tr", "th", "td", "br"),
    *("details", "summary", "code", "pre", "span", "a"),
}
ZERO_WIDTH_SPACE = "\u200b"
replace = msgspec.structs.replace


class Page(HTMLParser):
    """What GitHub would make of a comment: tags, the addresses of links, and the text outside code."""

    def __init__(self, report: str) -> None:
        super().__init__()
        markdown = MarkdownIt("gfm-like", {"breaks": True})
        # A bare host name such as `0.AL` is no link there; one that begins with `www.` is, and `prose` shows it.
        assert markdown.linkify is not None
        markdown.linkify.set({"fuzzy_link": False})
        self.tokens = markdown.parse(report)
        self.tags: list[str] = []
        self.addresses: set[str] = set()
        self.prose: list[str] = []
        self.open: list[str] = []
        self.feed(markdown.render(report))
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses |= {value or "" for name, value in attrs if name == "href"}
        assert {name for name, _ in attrs} <= {"href", "style", "class"}
        if tag != "br":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, text: str) -> None:
        if not {"code", "pre"} & set(self.open):
            self.prose.append(text)

    def handle_comment(self, text: str) -> None:
        raise AssertionError(f"an HTML comment: {text}")


def require_sound(report: str, addresses: set[str] | None = None) -> Page:
    """The report is whole, and nothing in it does more than be read."""
    page = Page(report)
    assert not page.open
    assert set(page.tags) <= OURS
    assert page.tags.count("h2") == 1
    kinds = [token.type for token in page.tokens]
    assert kinds[0] == "heading_open"
    assert not {"code_block", "blockquote_open", "hr", "ordered_list_open"} & set(kinds)
    assert [token.info for token in page.tokens if token.type == "fence"] in (
        ([], ["mermaid"], ["text"], ["mermaid", "text"], ["text", "mermaid"])
    )
    if addresses is not None:
        assert page.addresses == addresses
    require_even_tables(report)
    require_no_calls(report, page)
    assert len(report.encode("utf-16-le")) // 2 <= BODY_LIMIT - RESERVE
    return page


def require_even_tables(report: str) -> None:
    """Each row of a table has the cells of its header: nothing inside a cell is a bar."""
    cells = None
    for line in outside_fences(report):
        if not line.startswith("|"):
            cells = None
            continue
        assert line.startswith("| ")
        assert line.endswith(" |")
        assert cells is None or line.count("|") == cells
        cells = line.count("|")


def outside_fences(report: str) -> list[str]:
    lines, fence = [], ""
    for line in report.splitlines():
        marks = re.match("`{3,}", line)
        if marks and not fence:
            fence = marks[0]
        elif fence and line == fence:
            fence = ""
        elif not fence:
            lines.append(line)
    return lines


def require_no_calls(report: str, page: Page) -> None:
    """No mention, reference, address, emoji or formula that GitHub would find; no character that hides another."""
    prose = "".join(page.prose)
    assert not re.search(r"#\d|\bGH-\d|://|www\.(?!\u200b)|:[a-z_]+:|\b[0-9a-f]{7,40}\b", prose, re.IGNORECASE)
    assert not re.search(r"@\w", report)
    assert not re.search(r"!\[|cml\.dev|cml watermark", report, re.IGNORECASE)
    assert "$" not in re.sub(r"<span>\$</span>", "", re.sub(r"<code>.*?</code>", "", "\n".join(outside_fences(report))))
    hidden = {c for c in report if unicodedata.category(c) in {"Cc", "Cf", "Cs"}} - {"\n", ZERO_WIDTH_SPACE}
    assert not hidden


def links_of(judgement: Judgement) -> set[str]:
    links = {value for value in msgspec.structs.asdict(judgement.links).values() if value}
    return links | ({judgement.failure.log_url} if judgement.failure else set())


@pytest.mark.parametrize("ending", ENDINGS)
def test_every_ending_gives_a_whole_report_with_its_links(ending):
    judgement = ENDINGS[ending]()
    require_sound(render(judgement), links_of(judgement))


@pytest.mark.parametrize(
    ("ending", "heading"),
    [
        ("passing", "✅ Pass"),
        ("blocked", "❌ Blocked"),
        ("task_failed", "⚠️ No verdict"),
        ("data_rejected", "⚠️ No verdict"),
    ],
)
def test_the_first_line_is_the_verdict_and_the_challenge(ending, heading):
    first = render(ENDINGS[ending]()).splitlines()[0]
    assert first == f"## {heading}: Hourly temperature at New York's airports"


def test_a_challenge_without_a_title_goes_by_its_name():
    assert render(passing(title="")).startswith("## ✅ Pass: weather\n")


def test_the_main_number_comes_second_with_better_or_worse_in_words():
    assert render(passing()).splitlines()[2] == (
        "**RMSE 1.93 °C**, **2.1 % better than production** (95 % interval −3.4 % to −0.8 %)."
    )
    assert "**6.4 % worse than production** (95 % interval 5.1 % to 7.7 %)" in render(blocked()).splitlines()[2]


def test_every_reason_is_reported_before_the_numbers():
    report = render(blocked())
    reasons = [f"- {reason.message}" for reason in blocked().verdict.reasons]
    assert "\n".join(reasons) in report
    assert report.index(reasons[-1]) < report.index("| model |")


def test_the_table_has_candidate_production_baseline_and_further_opponents():
    assert rows_of(render(passing()), "model") == [
        ["candidate", "1.93", "", "90.2 %"],
        ["production 7", "1.97", "2.1 % better<br>−3.4 % to −0.8 %", "89.7 %"],
        ["climatology (28 days)", "2.64", "26.9 % better", "–"],
        ["persistence, for comparison", "3.30", "41.6 % better", "–"],
    ]


def test_what_breaks_the_policy_is_marked():
    assert [row[3] for row in rows_of(render(blocked()), "horizon")] == [
        "6.4 % worse<br>5.1 % to 7.7 %",
        "6.4 % worse<br>5.1 % to 7.7 %",
        "21.2 % worse ❌<br>19.9 % to 22.5 %",
    ]
    marks = {name[2:]: name[0] for name, *_ in rows_of(render(blocked()), "rule")}
    assert (marks["against production"], marks["each horizon, series"], marks["covered"]) == ("❌", "❌", "✅")


def test_losing_to_the_baseline_is_marked():
    lost = without_production(verdict())
    lost = replace(lost, overall=replace(lost.overall, candidate=3.0))
    assert "13.6 % worse ❌" in render(passing(verdict=lost))


def test_without_production_the_baseline_is_the_only_opponent():
    report = render(first_model())
    title = "climatology (28 days)"
    assert f"26.9 % better than {title}**; no production model yet: {title} is the only opponent." in report
    assert [row[0] for row in rows_of(report, "model")] == ["candidate", title, "persistence, for comparison"]
    assert rows_of(report, "horizon")[0] == ["4", "1.67", "2.21", "24.2 % better"]
    assert "None" not in report


def test_a_production_model_that_could_not_be_compared_is_not_called_missing():
    report = render(first_model(evaluation=evaluation(production=None, production_version="7")))
    assert "The production model (version 7) could not be compared" in report
    assert "no production model yet" not in report


def test_each_fold_is_shown_oldest_first():
    report = render(passing())
    assert "By fold: 3 folds, each predicted by models that have not seen it" in report
    assert rows_of(report, "origins") == [
        ["2013-10-07 06:00 to 2013-11-04 05:00", "1.90", "1.80", "2.50"],
        ["2013-11-04 06:00 to 2013-12-02 05:00", "2.10", "2.00", "2.70"],
        ["2013-12-02 06:00 to 2013-12-30 05:00", "2.30", "2.20", "2.90"],
    ]


def test_a_single_fold_is_called_thin_evidence():
    thin = "A single fold is thin evidence"
    assert thin in render(passing(evaluation=evaluation(folds=folds()[:1])))
    assert thin not in render(passing(evaluation=evaluation(folds=folds()[:2])))


def test_the_age_of_what_was_learnt_from_is_shown_and_marked_when_it_is_too_much():
    rule = "age of the newest target learnt from"
    shown = {name[2:]: (name[0], *rest) for name, *rest in rows_of(render(passing()), "rule")}
    assert shown[rule] == ("✅", "at most 48 h", "6 h")
    stale = verdict(outcome="block", reasons=(Reason(rule="freshness", message="it is 49 h old"),))
    assert f"❌ {rule}" in render(passing(outcome="block", verdict=stale))


def test_a_candidate_of_productions_commit_is_not_shown_as_judged_by_its_recipe():
    shown = {name[2:]: rest for name, *rest in rows_of(render(passing(evaluation=evaluation(same_code=True))), "rule")}
    assert shown["against production"] == ["the same commit", "not judged: there is no other recipe"]
    assert "each horizon, series" not in shown


def test_a_changed_policy_is_shown_key_by_key_before_the_numbers():
    changes = (PolicyChange(key="gate.max_regression", base="0.03", head="0.5"),)
    report = render(passing(policy_changes=changes))
    assert rows_of(report, "key") == [["`gate.max_regression`", "`0.03`", "`0.5`"]]
    assert report.index("changes the gate's policy") < report.index("| model |")
    assert "changes the gate's policy" not in render(passing())


def test_whose_policy_it_is_is_reported():
    assert "Policy: the branch test at `abababababab`." in render(passing())


def test_the_data_is_named_so_that_it_can_be_had_again():
    report = render(passing())
    made = data()
    assert f"hash `{made.dataset_md5}`, revision `{made.dataset_rev}`" in report
    assert f"dvc get &lt;repository&gt; dataset --rev {made.dataset_rev}" in report
    assert "26,115 rows, 2013-01-01 06:00 to 2013-12-30 06:00 UTC" in report
    assert "0 errors, 2 warnings" in report


def test_drift_is_largest_first_and_in_words():
    report = render(passing(data=data(drift={"a": 0.09, "b": 0.26, "c": 0.25, "d": math.nan, "e": 0.0, "f": 0.1})))
    assert rows_of(report, "feature") == [
        ["`d`", "NaN", "unknown"],
        ["`b`", "0.26", "shift"],
        ["`c`", "0.25", "moderate"],
        ["`f`", "0.10", "moderate"],
        ["`a`", "0.090", "stable"],
    ]
    assert "what the production model saw in training" in report
    assert "what the candidate saw in training" in render(passing(data=data(drift_from="candidate")))


@pytest.mark.parametrize(
    ("sandbox", "shown"),
    [
        ("bubblewrap", "the stages ran in `bubblewrap`"),
        ("process", "the stages ran in no sandbox: in processes without keys"),
    ],
)
def test_the_report_says_what_surrounded_the_stages(sandbox: str, shown: str):
    assert shown in render(passing(data=data(sandbox=sandbox)))
    assert "the stages ran" not in render(passing(data=data(sandbox="")))


def test_a_failed_task_is_named_with_its_reason_and_its_log():
    report = render(task_failed())
    assert "the task transform failed: KeyError: 'dew\\_point'" in report
    assert f"Failed task: `transform` ([its log]({task_failed().failure.log_url}))" in report
    assert '\n  File "pipelines/transform.py", line 40, in transform\n' in report


def test_the_data_gates_violations_are_shown_errors_first():
    rows = rows_of(render(data_rejected()), "rule")
    assert [row[0] for row in rows] == ["`nulls`", "`gap`", "`range` (warning)"]
    assert rows[0][1] == "`EWR`, `temperature`<br>2013-12-27 06:00 to 2013-12-30 06:00"


def test_a_gate_that_failed_before_its_run_has_a_report():
    failure = replace(task_failed().failure, reason="Airflow does not answer", task="", log_url="", log_tail=())
    nothing = task_failed(
        failure=failure, links=Links(), pull_request=None, run_id="", policy=None, policy_from="", title=""
    )
    page = require_sound(render(nothing), set())
    assert "Airflow does not answer" in "".join(page.prose)


def test_the_end_tells_what_was_judged_and_how_long_it_took():
    report = render(passing())
    assert "- pull request 12, `dev` into `test`: Add the wind's direction\n" in report
    assert "- commit `9c1e5bd0c2f2`\n" in report
    assert "- model version `8`\n" in report
    assert "took 71 s, tasks at work for 58 s of it" in report


def test_the_series_are_folded_worst_first():
    series = [contest(f"series {name}", change, 2.0, 3.0) for name, change in (("A", -0.1), ("B", 0.2), ("C", 0.1))]
    series += [contest("series D", 0.05, 2.0, 3.0, worse=True), contest("series E", math.nan, 2.0, 3.0)]
    report = render(passing(verdict=verdict(series=tuple(series))))
    assert [row[0] for row in rows_of(report, "series")] == ["D", "E", "B", "C", "A"]
    assert "<summary>By series: 5, worst first; 1 too much worse</summary>" in report


def test_ten_thousand_series_are_cut_with_a_count():
    series = tuple(contest(f"series S{i}", -0.02, 2.0, 3.0) for i in range(10_000))
    report = render(passing(verdict=verdict(series=series)))
    require_sound(report, links_of(passing()))
    assert len(rows_of(report, "series")) == 30
    assert "… and 9,970 more, in `verdict.json`." in report


def test_many_violations_are_cut_with_a_count():
    failure = replace(data_rejected().failure, violations=tuple(violation() for _ in range(500)))
    report = render(data_rejected(failure=failure))
    assert len(rows_of(report, "rule")) == 50
    assert "… and 450 more, in `quality.json`." in report


def test_a_long_report_keeps_verdict_reasons_main_table_and_links():
    judgement = overfull("long words " * 100)
    report = render(judgement)
    require_sound(report)
    assert report.startswith("## ❌ Blocked: ")
    assert re.search(r"^- long words.*\n\n… and 9\d0 more, in `verdict.json`\.$", report, re.MULTILINE)
    assert len(rows_of(report, "model")) == 4
    assert "[workflow run](https://github.com/team/rps/actions/runs/1)" in report


@pytest.mark.parametrize(
    "word", ["$", "|", "&", "<", "`", "_", "@a", "😀", "\ud800", "\x00", "`" * 80 + " ", "$" * 80 + " ", "#1 "]
)
def test_no_input_makes_a_report_too_long_for_a_comment(word):
    report = render(overfull(word * 3000))
    require_sound(report)
    assert len(report) <= report_length("x" * 63)


HOSTILE = [
    "<script>alert(1)</script>",
    "</summary></details><img src=x onerror=alert(1)>",
    "![x](https://evil.example/x.png) [y](https://evil.example) <https://evil.example>",
    "see https://evil.example, www.evil.example, mailto:me@evil.example",
    "@team/all @octocat #1 owner/repo#12 GH-7 octocat@deadbeef deadbeefdeadbeef",
    "| a | b |\n| --- | --- |\n| c | d |",
    "a | b \\| c \\\\| d",
    "`code` ``` ~~~ `` `",
    "```\n</details>\n# heading\n```",
    "# heading\n\n## another\n---\n===",
    "- item\n  - item\n1. one\n> quote\n    code",
    "- [x] done",
    "1. one",
    "> [!CAUTION]",
    "+ plus",
    "=====",
    "----",
    "**bold** _italic_ ~~struck~~ [^1]",
    "<!-- hidden",
    "&lt;b&gt; &#64;octocat &commat;octocat",
    "\\@octocat \\<b> \\\\<b>",
    "$\\phantom{x}$ $$x$$ $`x`$",
    ":shipit: :+1: a:rocket:b",
    "\u202edetorre\u202c \u2066x\u2069 \u200b\ufeff \x1b[31mred\x1b[0m \x07 \ud800",
    '"\n```\n%%{init: {"securityLevel": "loose"}}%%\nclick a href "javascript:alert(1)"',
    '![](https://cml.dev/watermark.png#abcdef "CML watermark model-gate/weather")',
    "CML  watermark cml.dev Cml.Dev",
    "x" * 5000,
    "",
]


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("words", HOSTILE)
def test_nothing_from_outside_breaks_out(ending, words):
    judgement = shown_by(ENDINGS[ending](), words)
    require_sound(render(judgement), links_of(judgement))


pieces = st.sampled_from(HOSTILE) | st.text(max_size=20) | st.sampled_from(list("`|<>[]()*_~#@$\\!&:-+=\n\t "))


@settings(max_examples=60, deadline=None)
@given(words=st.lists(pieces, max_size=6).map("".join), ending=st.sampled_from(sorted(ENDINGS)))
def test_no_mixture_of_hostile_pieces_breaks_out(words, ending):
    judgement = shown_by(ENDINGS[ending](), words)
    require_sound(render(judgement), links_of(judgement))


@pytest.mark.parametrize(
    "address", ["javascript:alert(1)", "https://a.example/) ![x](y", "//evil", "ftp://x", "https://", "x"]
)
def test_an_address_that_is_none_is_shown_as_text_or_encoded(address):
    page = require_sound(render(passing(links=Links(dag_run=address))))
    assert page.addresses <= {"https://a.example/%29%20%21%5Bx%5D%28y", "https://a.example/%29%20!%5Bx%5D%28y"}


numbers = st.floats() | st.sampled_from([0.0, -0.0, 5e-324, 1e308, -0.0004, 0.9999999])


@settings(max_examples=60, deadline=None)
@given(drawn=st.lists(numbers, min_size=9, max_size=9), opponent=st.sampled_from(["production", "baseline"]))
def test_any_number_can_be_shown(drawn, opponent):
    endless = itertools.cycle(drawn)

    def strange(name: str) -> Contest:
        fields = ("candidate", "production", "baseline", "change", "low", "high", "p_value")
        return replace(contest(name, 0.0, 2.0, 3.0), **{field: next(endless) for field in fields})

    made = verdict(
        overall=strange("overall"),
        horizons=(strange("horizon 4"), strange("horizon 5")),
        series=(strange("series A"), strange("series B")),
        coverage=next(endless),
        coverage_low=next(endless),
        coverage_high=next(endless),
        prediction_time_ratio=next(endless),
        opponent=opponent,
    )
    report = render(passing(verdict=made, data=data(drift={"a": next(endless)})))
    require_sound(report)
    assert not re.search(r"\b(nan|inf|None)\b|[-−]0\.0 %", report)


def test_the_example_in_the_documentation_is_what_is_rendered():
    page = (Path(__file__).parents[2] / "docs" / "reference" / "gate-report.md").read_text(encoding="utf-8")
    assert page.endswith(f"---\n\n{render(blocked())}")


def shown_by(judgement: Judgement, words: str) -> Judgement:
    """The judgement with every text in it, but for its links, replaced by these words."""

    def shown(value: object, key: str = "") -> object:
        if isinstance(value, dict):
            if key == "links":
                return value
            return {words if key == "drift" else name: shown(item, name) for name, item in value.items()}
        if isinstance(value, list | tuple):
            return [shown(item, key) for item in value]
        fixed = {"outcome", "severity", "measure", "opponent", "drift_from", "loss", "log_url"}
        is_rule = key == "rule" and value in {"regression", "slice"}
        return words if isinstance(value, str) and key not in fixed and not is_rule else value

    return msgspec.convert(shown(msgspec.to_builtins(judgement, builtin_types=(datetime,))), Judgement)


def overfull(words: str) -> Judgement:
    """A thousand of everything, all of it in these words."""
    series = tuple(contest(f"series {words}", 0.3, 2.0, 3.0, worse=True) for _ in range(1000))
    horizons = tuple(contest(f"horizon {i}", 0.3, 2.0, 3.0, worse=True) for i in range(1000))
    reasons = tuple(Reason(rule="slice", message=words) for _ in range(1000))
    failure = replace(
        data_rejected().failure,
        log_tail=(words,) * 1000,
        violations=tuple(violation(message=words) for _ in range(1000)),
    )
    full = shown_by(
        blocked(
            verdict=verdict(0.3, outcome="block", reasons=reasons, series=series, horizons=horizons),
            data=data(drift={str(i): 1.0 for i in range(50)}),
            policy_changes=tuple(PolicyChange(key=str(i), base="a", head="b") for i in range(1000)),
            failure=failure,
        ),
        words,
    )
    return replace(full, failure=replace(full.failure, log_url="x" * 5000 + words))


def rows_of(report: str, first_header: str) -> list[list[str]]:
    """The body of the last table whose first header is that."""
    lines = report.splitlines()
    start = max(index for index, line in enumerate(lines) if line.startswith(f"| {first_header} |"))
    body = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        body.append([cell.strip() for cell in line.strip("|").split("|")])
    return body
