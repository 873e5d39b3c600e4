"""The explorer in a real JupyterLab, in headless Chromium: type, wait, click, compare, slide, copy, export.

These tests start a server and a browser that only this machine can reach, end both, and take a minute or two. Pictures
for a person to look at are kept in the folder that TRACESCRIBE_SCREENSHOTS names.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tracescribe as ts

pytest.importorskip("anywidget", reason="the extra 'jupyter' is not installed")
pytest.importorskip("jupyterlab", reason="the extra 'browser' is not installed")
playwright = pytest.importorskip("playwright.sync_api", reason="the extra 'browser' is not installed")

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next((found for name in NAMES if (found := shutil.which(name))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed"),
]
SLOW = 180_000  # milliseconds that a busy machine may take for one step
NOTEBOOK = """\
import torch
import tracescribe as ts
from tracescribe.benchmark.phantom import build_phantom

model, other = ts.load("phantom"), ts.load("phantom")
with torch.no_grad():
    for parameter in other.source.transformer.resblocks[1].mlp.parameters():
        parameter.mul_(0.5)
pairs = ts.read_pairs(build_phantom("films", 16, seed=0) / "pairs.jsonl")
explorer = ts.viz.explore(
    model, [pair for pair in pairs if pair.attribute == "existence"][:16], {"tuned": other},
    control=[pair for pair in pairs if pair.attribute == "severity"][:16],
    correct="There is severe effusion.", foil="There is no effusion.", target=ts.Text("The lungs are clear."),
)
explorer
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import nbformat

    folder = tmp_path_factory.mktemp("lab")
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(NOTEBOOK)],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
    )
    nbformat.write(notebook, folder / "explore.ipynb")
    return folder


@pytest.fixture(scope="module")
def server(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the notebook in a JupyterLab on this machine; ended afterwards."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(8)
    home = tmp_path_factory.mktemp("home")
    settings = home / "lab" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    (settings / "notification.jupyterlab-settings").write_text('{"fetchNews": "false", "checkForUpdates": false}')
    environment = {
        **os.environ,
        "JUPYTERLAB_SETTINGS_DIR": str(home / "lab"),
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
        "IPYTHONDIR": str(home / "ipython"),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--ServerApp.port={port}"]
    command += ["--ServerApp.ip=127.0.0.1", "--ServerApp.port_retries=0", f"--IdentityProvider.token={token}"]
    log = (home / "log").open("wb")
    process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        base = f"http://127.0.0.1:{port}"
        for _ in range(600):
            try:
                urllib.request.urlopen(f"{base}/api?token={token}", timeout=5).read()
                break
            except OSError:
                assert process.poll() is None, (home / "log").read_text()[-3000:]
                time.sleep(0.2)
        yield f"{base}/lab/tree/explore.ipynb?token={token}"
    finally:
        process.terminate()  # and the kernel with it
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
        log.close()


@pytest.fixture(scope="module")
def page(server: str) -> Iterator[Any]:
    """The notebook, run, with the explorer in it and its first trace finished."""
    with playwright.sync_playwright() as tool:
        arguments = ["--no-sandbox", "--disable-dev-shm-usage"]
        browser = tool.chromium.launch(executable_path=CHROMIUM, args=arguments, timeout=SLOW)
        context = browser.new_context(viewport={"width": 1500, "height": 1400})
        context.grant_permissions(["clipboard-read", "clipboard-write"])
        page = context.new_page()
        page.set_default_timeout(SLOW)
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(server, timeout=SLOW)
        page.wait_for_selector(".jp-Notebook .jp-CodeCell")
        page.wait_for_function(
            "() => document.querySelector('.jp-Notebook-ExecutionIndicator')?.dataset.status === 'idle'"
        )
        for _ in range(20):  # Lab may still be moving the focus about
            page.click(".jp-Notebook .jp-CodeCell .cm-content")
            page.keyboard.press("Shift+Enter")
            page.wait_for_timeout(2000)
            if page.locator(".jp-CodeCell .jp-InputPrompt").first.text_content() != "[ ]:":
                break
        look(page, "lab", ".jp-LabShell")
        page.wait_for_selector(".ts-explorer, .jp-OutputArea-output[data-mime-type*=stderr], .jp-RenderedText")
        said = page.locator(".jp-OutputArea-output").all_text_contents()
        assert page.locator(".ts-explorer").count() == 1, (said, errors)
        ready(page)
        yield page
        assert [error for error in errors if "ts-" in error or "explorer" in error] == []
        context.close()
        browser.close()


def ready(page: Any) -> None:
    """Until nothing is computed and a map is there."""
    page.wait_for_function(
        "() => { const one = document.querySelector('.ts-explorer'); "
        "return one && one.getAttribute('aria-busy') === 'false' && one.querySelector('.ts-map canvas'); }"
    )


def status(page: Any) -> str:
    return str(page.text_content(".ts-status-text"))


def until_text(page: Any, selector: str, words: str) -> None:
    """Until the first element has these words in its text."""
    page.wait_for_function(
        "([selector, words]) => (document.querySelector(selector)?.textContent ?? '').includes(words)",
        arg=[selector, words],
    )


def look(page: Any, name: str, what: str = ".ts-explorer") -> None:
    """Keep a picture for a person to look at, where one asked for it."""
    wanted = os.environ.get("TRACESCRIBE_SCREENSHOTS")
    if wanted:
        Path(wanted).mkdir(parents=True, exist_ok=True)
        page.locator(what).first.screenshot(path=str(Path(wanted) / f"{name}.png"))


def click_cell(page: Any, layer: int, column: int) -> None:
    """Click the middle of a cell; where it is, the page knows."""
    canvas = page.locator(".ts-map canvas").first
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    at = page.evaluate("() => document.querySelector('.ts-explorer').explorer.grids[0].at")
    assert (at["rows"], at["columns"]) == (9, 8)
    page.mouse.click(
        box["x"] + at["left"] + (column + 0.5) * at["cellWidth"],
        box["y"] + at["top"] + (8 - layer + 0.5) * at["cellHeight"],
    )


def test_typing_shows_tokens_at_once_and_retraces(page: Any) -> None:
    look(page, "start")
    assert page.locator(".ts-tokens").nth(0).locator(".ts-differs").all_text_contents() == ["severe"]
    foil = page.locator("input[id$='-foil']")
    foil.fill("There is effusion.")
    page.wait_for_selector(".ts-fix button")
    assert "8 and 7 tokens" in status(page)
    page.click(".ts-fix button")
    until_text(page, ".ts-status-text", "traced in")
    assert foil.input_value() != "There is effusion." and page.locator(".ts-fix button").count() == 0
    foil.fill("There is no effusion.")
    page.wait_for_function("() => document.querySelectorAll('.ts-tokens')[1].textContent.includes('no')")
    until_text(page, ".ts-status-text", "traced in")


def test_a_click_asks_a_cell_and_one_click_splits_it_by_head(page: Any) -> None:
    click_cell(page, 3, 7)
    until_text(page, ".ts-panel h3", "layer 3 · token [EOT]")
    page.wait_for_selector(".ts-patched")
    assert "→" in page.text_content(".ts-patched .ts-number")
    page.click("[data-ask=heads]")
    page.wait_for_selector(".ts-small canvas")
    page.click("[data-ask=attention]")
    page.wait_for_function("() => document.querySelectorAll('.ts-answers .ts-small').length === 3")
    page.click("[data-ask=data]")
    page.wait_for_function("() => document.querySelectorAll('.ts-extremes li').length > 4")
    assert page.locator(".ts-extremes img").count() > 4
    look(page, "asked")


def test_the_keyboard_moves_the_selected_cell_and_a_screen_reader_hears_it(page: Any) -> None:
    grid = page.locator("[role=grid]").first
    grid.focus()
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowLeft")
    until_text(page, ".ts-panel h3", "layer 4 · token .")
    assert (grid.get_attribute("aria-rowcount"), grid.get_attribute("aria-colcount")) == ("9", "8")
    active = page.locator(f"[id='{grid.get_attribute('aria-activedescendant')}']")
    assert active.text_content().startswith("layer 4 · . · CTE ") and active.get_attribute("aria-colindex") == "7"
    page.keyboard.press("Escape")
    page.wait_for_selector(".ts-panel .ts-empty")
    assert page.locator("[role=status]").first.get_attribute("aria-live") == "polite"
    reached = set()
    page.locator("input[id$='-correct']").focus()
    for _ in range(24):
        page.keyboard.press("Tab")
        reached.add(
            page.evaluate("() => document.activeElement.getAttribute('role') ?? document.activeElement.tagName")
        )
    assert {"INPUT", "SELECT", "grid", "tab", "BUTTON"} <= reached


def test_two_models_are_compared_on_one_scale(page: Any) -> None:
    page.select_option("[data-name=compare]", "model:tuned")
    page.wait_for_function("() => document.querySelectorAll('.ts-map').length === 3")
    assert page.locator(".ts-map-name").all_text_contents() == ["A", "B", "B − A"]
    ready(page)
    look(page, "compared")
    page.select_option("[data-name=compare]", "")
    page.wait_for_function("() => document.querySelectorAll('.ts-map').length === 1")
    page.select_option("[data-name=scope]", "data")
    until_text(page, ".ts-notes", "bootstrap interval")
    page.check("[data-name=subtract]")
    until_text(page, ".ts-notes", "minus a control")
    look(page, "control")


def test_sliding_beta_changes_the_weights(page: Any) -> None:
    page.click("[role=tab]:has-text('Prescribe')")
    page.wait_for_selector(".ts-plan canvas")
    before = page.get_attribute(".ts-plan canvas", "aria-label")
    page.locator("input[type=range]").focus()
    for _ in range(6):
        page.keyboard.press("ArrowRight")
    page.wait_for_function(
        "(before) => document.querySelector('.ts-plan canvas').getAttribute('aria-label') !== before", arg=before
    )
    until_text(page, ".ts-field output", "1.30")
    assert page.locator(".ts-warnings li").count() > 0
    look(page, "prescribed")
    page.uncheck("[data-name=subtract]")
    page.select_option("[data-name=scope]", "pair")
    ready(page)


def test_copied_code_gives_the_numbers_on_the_page(page: Any) -> None:
    page.click("[role=tab]:has-text('Copy and export')")
    page.wait_for_function("() => document.querySelector('.ts-code').value.includes('trace.cte[0]')")
    page.click(".ts-copy")
    until_text(page, ".ts-copied", "copied")
    code = page.evaluate("() => navigator.clipboard.readText()")
    assert code == page.input_value(".ts-code")
    shown = page.evaluate("() => Array.from(document.querySelector('.ts-explorer').explorer.grids[0].panel.cells)")
    space: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ts.tracer.TraceWarning)  # this model prefers the foil, and prescribe says so
        exec(compile(code, "copied", "exec"), space)
    # another process on the same machine: the numbers of the kernel to the last bit
    assert np.array_equal(np.float32(shown).reshape(9, 8), space["cells"])
    look(page, "code")


@pytest.mark.parametrize("suffix", [".pdf", ".svg", ".png", ".csv", ".json"])
def test_a_view_is_written(page: Any, folder: Path, suffix: str) -> None:
    page.fill(".ts-name", "view")
    page.click(f"[data-suffix='{suffix}']")
    until_text(page, ".ts-status-text", f"wrote view{suffix}")
    assert (folder / f"view{suffix}").stat().st_size > 200


def test_the_history_restores(page: Any) -> None:
    page.click("[role=tab]:has-text('History')")
    page.wait_for_selector(".ts-history")
    count = page.locator(".ts-history li").count()
    assert count >= 2
    page.locator(".ts-history button:not([disabled])").last.click()
    until_text(page, ".ts-status-text", "restored trace 1")
    assert page.locator(".ts-history li").count() == count
    look(page, "history")


def test_captions_are_text_never_markup(page: Any) -> None:
    page.fill("input[id$='-foil']", "There is <img src=x onerror=alert(1)>.")
    page.wait_for_function("() => document.querySelectorAll('.ts-tokens')[1].textContent.includes('[UNK]')")
    assert page.locator(".ts-tokens img, .ts-fix img").count() == 0
    page.fill("input[id$='-foil']", "There is mild effusion.")
    ready(page)


def test_dark_and_narrow_are_readable(page: Any) -> None:
    page.evaluate("() => { document.body.dataset.jpThemeLight = 'false'; }")
    page.wait_for_function("() => document.querySelector('.ts-explorer').dataset.theme === 'dark'")
    look(page, "dark")
    page.evaluate("() => { document.body.dataset.jpThemeLight = 'true'; }")
    page.evaluate("() => { document.querySelector('.ts-explorer').style.width = '700px'; }")
    page.wait_for_selector(".ts-explorer.ts-narrow")
    overflow = page.evaluate(
        "() => { const one = document.querySelector('.ts-explorer'); return one.scrollWidth - one.clientWidth; }"
    )
    assert overflow <= 1  # nothing is cut off at the right
    look(page, "narrow")
    page.evaluate("() => { document.querySelector('.ts-explorer').style.width = ''; }")


def test_a_saved_notebook_keeps_a_picture(page: Any, folder: Path) -> None:
    page.click("[data-command='docmanager:save']")
    outputs: list[Any] = []
    for _ in range(300):
        outputs = json.loads((folder / "explore.ipynb").read_text(encoding="utf-8"))["cells"][0]["outputs"]
        if outputs:
            break
        time.sleep(0.2)
    forms = [form for output in outputs for form in output.get("data", {})]
    assert "image/png" in forms and "application/vnd.jupyter.widget-view+json" in forms
