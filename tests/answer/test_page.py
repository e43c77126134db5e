"""The report's files: complete, self-contained, the same in HTML and Markdown, and safe whatever a value holds."""

import html.parser
from dataclasses import replace

import pandas as pd
import pytest
from synthetic import choice, lr_warmup_space, make_plan, make_sweep

from sweeps.analysis.results import Results
from sweeps.answer import page, tables
from sweeps.answer.figures import figures_of

LINKS = {"Curves": "https://example.org/#/experiments/1?a=1&b=2", "Start the UI": "make ui"}
TABLES = ("trials", "leaderboard", "gaps", "overfitting", "rates", "effects", "diagnoses")
STATES = {(12, 0): "DIVERGED", (2, 0): "FAILED", (3, 1): "MISSING"}


class Page(html.parser.HTMLParser):
    """Tags, addresses and text; complains of a tag that closes nothing."""

    def __init__(self, source):
        super().__init__()
        self.open, self.tags, self.addresses, self.text = [], [], [], ""
        self.feed(source)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    plan = make_plan(lr_warmup_space())
    trials, history = make_sweep(plan, states=STATES)
    folder = tmp_path_factory.mktemp("report") / "made" / "for it"
    assert page.write_report(Results(plan, trials, history), folder, LINKS) == folder / "index.html"
    return plan, trials, history, folder


def test_report_writes_every_file(written):
    plan, *_, folder = written
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    figures = {f"figures/{name}.{kind}" for name in figures_of(plan) for kind in ("png", "svg")}
    assert names == {"index.html", "report.md"} | {f"{table}.csv" for table in TABLES} | figures


def test_page_needs_no_other_file(written):
    plan, *_, folder = written
    parsed = Page((folder / "index.html").read_text())
    assert all(address.startswith(("data:", "https://example.org/")) for address in parsed.addresses)
    assert parsed.tags.count("img") == len(figures_of(plan))
    assert "script" not in parsed.tags


def test_html_and_markdown_hold_the_same(written):
    plan, trials, _, folder = written
    markdown = (folder / "report.md").read_text().replace("\\", "")
    text = Page((folder / "index.html").read_text()).text
    board = Results(plan, trials, trials).board
    for content in (
        plan.question,
        board["label"].iloc[0],
        board["run_ids"].iloc[0],
        "The command that makes the best run again",
        "1 of 32 runs diverged",
        "30 of 32 runs done",
        "make ui",
        str(plan.command),
    ):
        assert content in text
        assert content in markdown
    assert all(
        (folder / f"figures/{name}.png").exists() and f"(figures/{name}.png)" in markdown for name in figures_of(plan)
    )


def test_csv_files_read_back(written):
    plan, trials, _, folder = written
    board = pd.read_csv(folder / "leaderboard.csv")
    assert board["objective"].tolist() == pytest.approx(
        Results(plan, trials, trials).board["objective"].tolist(), nan_ok=True
    )
    assert len(pd.read_csv(folder / "trials.csv")) == len(trials)
    assert pd.read_csv(folder / "gaps.csv")["parameter"].tolist() == ["learning_rate"] * 4 + ["warmup_ratio"] * 4


def test_whatever_a_value_holds_is_text(tmp_path):
    evil = "<script>alert('x')</script>|`a`&$b$"
    plan = replace(make_plan({"data": choice(evil, "plain")}, seeds=[0]), name=evil, question=evil)
    trials, history = make_sweep(plan)
    source = page.write_report(
        Results(plan, trials, history), tmp_path, {evil: "javascript:alert(1)", "b": f"https://x/{evil}"}
    )
    parsed = Page(source.read_text())
    assert "script" not in parsed.tags
    assert evil in parsed.text
    assert not any(address.startswith("javascript") for address in parsed.addresses)
    markdown = (tmp_path / "report.md").read_text()
    assert "<script>alert('x')</script>|" not in markdown.replace("`javascript:alert(1)`", "").split("## Go on")[0]
    rows = [line for line in markdown.splitlines() if line.startswith("| 1 |")]
    assert rows[0].count(" | ") == rows[0].replace("\\|", "").count(" | ")


def test_one_run_alone_gives_a_page_that_claims_nothing(tmp_path):
    plan = make_plan({"learning_rate": choice(1e-3)}, seeds=[0])
    text = Page(page.write_report(Results(plan, *make_sweep(plan)), tmp_path, {}).read_text()).text
    assert "Best of 1 setting is lr=1e-3" in text
    assert "told" not in text.split("Leaderboard")[0]


@pytest.mark.parametrize("state", ["DIVERGED", "MISSING"])
def test_a_sweep_without_a_result_still_gives_a_page_that_says_so(state, tmp_path):
    plan = make_plan({"learning_rate": choice(1e-3, 3e-3)}, seeds=[0])
    trials, history = make_sweep(plan, states={(0, 0): state, (1, 0): state})
    text = Page(page.write_report(Results(plan, trials, history), tmp_path, {}).read_text()).text
    assert {"DIVERGED": "Every finished run diverged", "MISSING": "No run has finished yet"}[state] in text


def test_tables_are_text(written):
    results = Results(*written[:3])
    board = tables.leaderboard_table(results)
    assert len(board) == tables.TOP_SETTINGS
    assert board.iloc[0]["against the best"] == "best"
    for table in (board, tables.gap_table(results), tables.rate_text_table(results), tables.effect_table(results)):
        assert len(table) > 0
        assert all(isinstance(cell, str) for cell in table.to_numpy().ravel())
