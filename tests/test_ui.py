"""What a person sees of a sweep in MLflow's UI, in a real browser: Debian's `chromium`, driven by Playwright.

With SWEEPS_SCREENSHOTS=FOLDER it leaves the pictures of the README there, too.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from launcher import Launcher
from playwright.sync_api import Browser, Page, expect, sync_playwright
from servers import Server

from sweeps.store import open_store

pytestmark = pytest.mark.slow

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
PATIENCE = 30_000  # milliseconds that a page may take
QUESTION = "Which rate, and does warmup help?"
SWEEP = '''"""{question}"""
from sweeps import Choice, Sweep
from tinylm_core import RunConfig

SWEEP = Sweep(
    base=RunConfig(
        data={data!r}, tokenizer="char", max_seq_len=32, d_model=32, num_layers=2, num_heads=2, batch_size=8,
        train_tokens=8 * 32 * 240, num_evals=12, eval_tokens=1024,
    ),
    space={{"learning_rate": Choice(1e-3, 3e-3), "warmup_ratio": Choice(0.0, 0.2)}},
    seeds=2,
)
'''
NUM_RUNS = 8
SETTINGS = ("lr=1e-3 warmup=0", "lr=1e-3 warmup=0.2", "lr=3e-3 warmup=0", "lr=3e-3 warmup=0.2")


@dataclass(frozen=True)
class Shown:
    """A finished sweep, what its command printed, and the server that shows it."""

    server: str
    experiment: str
    summary: str
    best: str
    runs: str  # the links that the command printed, on this server
    best_runs: str


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"no browser here: none of {', '.join(BROWSERS)} is installed (Debian: apt-get install chromium)")
    with sync_playwright() as playwright:
        # Chromium has no sandbox for root, as whom containers run their tests.
        options = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=found, args=options)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def shown(
    browser: Browser, launcher: Launcher, tmp_path_factory: pytest.TempPathFactory, text_file: Path
) -> Iterator[Shown]:
    assert browser  # without one nothing is trained
    folder = tmp_path_factory.mktemp("ui")
    (folder / "rate_and_warmup.py").write_text(SWEEP.format(question=QUESTION, data=str(text_file)))
    command = (sys.executable, "-m", "sweeps.run", "rate_and_warmup.py", "--store", "store", "--workers", "2")
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    store = open_store(folder / "store")
    rows = store.runs("rate_and_warmup")
    best = min(rows, key=lambda row: row.metrics["objective"])
    (definition,) = store.definitions("rate_and_warmup")
    with Server(launcher, folder / "store") as server:
        links = [url.replace("http://127.0.0.1:5000", server.uri) for url in re.findall(r"http://\S+", ended.stdout)]
        yield Shown(server.uri, best.experiment_id, definition.run_id, best.run_id, *links)


@pytest.fixture(scope="module")
def page(browser: Browser, shown: Shown) -> Page:
    """One for all tests, since MLflow's scripts take seconds to load; each test opens what it looks at."""
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    page.set_default_timeout(PATIENCE)
    expect.set_options(timeout=PATIENCE)
    # MLflow's own assistant opens on a first visit and takes a third of the page; from the second on it stays closed.
    page.goto(shown.server)
    expect(page.get_by_text("MLflow Assistant").first).to_be_visible()
    page.add_init_script("localStorage.setItem('mlflow.assistant.panelOpen_v1', 'false')")
    return page


def look(page: Page, url: str, until: str) -> None:
    """Open an address and wait for a text, as a person would."""
    page.goto("about:blank")  # else another fragment of the same address is no new page
    page.goto(url)
    expect(page.get_by_text(until).first).to_be_visible()


def take(page: Page, name: str) -> None:
    """A picture for the README, where it is asked for."""
    if folder := os.environ.get("SWEEPS_SCREENSHOTS"):
        page.wait_for_timeout(1500)  # charts move into place
        page.screenshot(path=Path(folder) / f"{name}.png")


def of_run(shown: Shown, run: str, tab: str = "") -> str:
    return f"{shown.server}/#/experiments/{shown.experiment}/runs/{run}{tab}?workflowType=machine_learning"


def test_the_printed_link_opens_on_the_trials_and_their_curves(shown: Shown, page: Page) -> None:
    look(page, shown.runs, "t000 lr=1e-3")
    for setting in SETTINGS:
        for seed in (0, 1):
            expect(page.get_by_text(f"{setting} seed={seed}").first).to_be_visible()
    expect(page.get_by_text(f"{NUM_RUNS} matching runs")).to_be_visible()
    expect(page.get_by_text(QUESTION).first).to_be_visible()
    for section in ("Sweep", "train", "val", "eval", "System metrics"):
        expect(page.locator("body")).to_contain_text(re.compile(rf"{section}\s*\(\d"))
    for axis in ("learning_rate", "warmup_ratio", "final/gap", "objective"):
        expect(page.locator(".parcoords, .js-plotly-plot, svg").get_by_text(axis, exact=True).first).to_be_attached()
    expect(page.locator(".js-plotly-plot .trace").nth(2 * NUM_RUNS - 1)).to_be_attached()  # curves of two charts
    take(page, "ui-curves")


def test_the_settings_view_has_means_over_seeds(shown: Shown, page: Page) -> None:
    look(page, re.sub("-runs$", "-settings", shown.runs), "t000 lr=1e-3")
    expect(page.get_by_text("Group by: sweep.setting")).to_be_visible()
    for setting in SETTINGS:
        expect(page.get_by_text(f"Group: {setting}", exact=True).first).to_be_visible()


def test_the_table_has_what_was_swept_and_what_came_out(shown: Shown, page: Page) -> None:
    look(page, shown.runs.replace("=CHART", "=TABLE"), "t000 lr=1e-3")
    for column in ("final/val_loss", "final/gap"):
        expect(page.get_by_role("columnheader", name=column).first).to_be_attached()
    page.locator(".ag-body-horizontal-scroll-viewport").evaluate("element => element.scrollLeft = 10_000")
    for column in ("learning_rate", "warmup_ratio", "seed"):
        expect(page.get_by_role("columnheader", name=column).first).to_be_attached()
    take(page, "ui-table")


def test_selected_runs_are_compared_in_parallel_coordinates(shown: Shown, page: Page) -> None:
    look(page, shown.runs.replace("=CHART", "=TABLE"), "t000 lr=1e-3")
    for row in range(3):
        page.locator(f".ag-row[row-index='{row}'] input.ag-checkbox-input").first.check(force=True)
    page.get_by_role("button", name="Compare", exact=True).click()
    expect(page.get_by_text("Comparing 3 Runs from 1 Experiment").first).to_be_visible()


def test_the_link_to_the_best_runs_opens_on_lines_that_the_objective_colours(shown: Shown, page: Page) -> None:
    look(page, shown.best_runs, "t000 lr=1e-3")
    expect(page.get_by_text(f"{NUM_RUNS} matching runs")).to_be_visible()
    axes = page.locator(".parcoords .label")  # the last one's values give the lines their colours
    expect(axes.last).to_have_text("objective")
    expect(axes).to_have_count(4)
    take(page, "ui-parallel")


def test_a_runs_page_has_its_numbers_its_data_and_its_model(shown: Shown, page: Page) -> None:
    look(page, of_run(shown, shown.best), "final/val_loss")
    for text in ("learning_rate", "sentences.txt", "sweep.setting"):
        expect(page.get_by_text(text).first).to_be_attached()
    expect(page.get_by_role("link", name="model", exact=True).first).to_be_attached()
    look(page, of_run(shown, shown.best, "/model-metrics"), "Model metrics")
    page.get_by_placeholder("Search metric charts").fill("^(train|val)/")
    expect(page.locator(".js-plotly-plot .trace").nth(3)).to_be_attached()
    take(page, "ui-run")
    look(page, of_run(shown, shown.best, "/system-metrics"), "cpu_utilization_percentage")
    expect(page.get_by_text("system_memory_usage_megabytes").first).to_be_visible()
    look(page, of_run(shown, shown.best, "/artifacts"), "history.parquet")
    for name in ("checkpoint", "config.json", "environment.txt", "samples.txt"):
        expect(page.get_by_text(name, exact=True).first).to_be_visible()


def test_the_summary_run_has_the_answer_and_the_report_inline(shown: Shown, page: Page) -> None:
    look(page, of_run(shown, shown.summary), "Best of 4 settings is")
    look(page, of_run(shown, shown.summary, "/artifacts/report/index.html"), "report/index.html")
    report = page.frame_locator("iframe").last
    expect(report.get_by_role("heading", name="Answer")).to_be_visible()
    expect(report.get_by_text("Best of 4 settings is").first).to_be_visible()
    images = report.locator("img").evaluate_all("images => images.map(image => image.naturalWidth)")
    assert images
    assert min(images) > 0
