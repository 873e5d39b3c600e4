"""The explorer in a real JupyterLab and Notebook 7, in headless Chromium: type, wait, click, compare, copy, export.

These tests start a server and a browser that only this machine can reach, end both, and take a few minutes. Pictures
for a person to look at are kept in the folder that TRACESCRIBE_SCREENSHOTS names.
"""

from __future__ import annotations

import importlib.util
import json
import os
import secrets
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
from browsers import CHROMIUM, SLOW, browser

import tracescribe as ts

pytest.importorskip("anywidget", reason="the extra 'jupyter' is not installed")
pytest.importorskip("playwright", reason="the extra 'browser' is not installed")

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")]
APPS = {"jupyterlab": "lab/tree", "notebook": "notebooks"}  # modules to run, and where they show a file
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


@pytest.fixture(scope="module", params=APPS)
def app(request: pytest.FixtureRequest) -> str:
    if importlib.util.find_spec(request.param) is None:
        pytest.skip("the extra 'browser' is not installed")
    return str(request.param)


@pytest.fixture(scope="module")
def folder(app: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    import nbformat

    folder = tmp_path_factory.mktemp(app)
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(NOTEBOOK)],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
    )
    nbformat.write(notebook, folder / "explore.ipynb")
    return folder


@pytest.fixture(scope="module")
def server(app: str, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the notebook in JupyterLab or Notebook 7 on this machine; ended afterwards."""
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
    # the page's commands are needed to run a cell once, and to save: keys and clicks go astray while a page is built
    command = [sys.executable, "-m", app, "--no-browser", "--allow-root", "--expose-app-in-browser"]
    command += ["--ServerApp.ip=127.0.0.1", "--ServerApp.port_retries=200", f"--IdentityProvider.token={token}"]
    log = (home / "log").open("wb")
    process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        base = f"http://127.0.0.1:{port_of(process, home)}"
        yield f"{base}/{APPS[app]}/explore.ipynb?token={token}"
    finally:
        process.terminate()  # and the kernel with it
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        log.close()


def port_of(process: subprocess.Popen[bytes], home: Path) -> int:
    """The port that the server took, as soon as it answers."""
    end = time.monotonic() + SLOW / 1000
    while time.monotonic() < end:
        assert process.poll() is None, (home / "log").read_text()[-3000:]
        for told in (home / "runtime").glob("jpserver-*.json"):
            try:
                about = json.loads(told.read_text(encoding="utf-8"))
                address = f"http://127.0.0.1:{about['port']}/api?token={about['token']}"
                urllib.request.urlopen(address, timeout=30).read()
                return int(about["port"])
            except (OSError, ValueError):  # half written, or not listening yet
                pass
        time.sleep(0.2)
    raise AssertionError((home / "log").read_text()[-3000:])


@pytest.fixture(scope="module")
def opened(server: str) -> Iterator[Any]:
    """The notebook, run, with the explorer in it and its first trace finished."""
    with browser() as started:
        context = started.new_context(viewport={"width": 1500, "height": 1400})
        context.grant_permissions(["clipboard-read", "clipboard-write"])
        page = context.new_page()
        page.set_default_timeout(SLOW)
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(server, timeout=SLOW)
        page.wait_for_function("() => window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel")
        page.evaluate(
            """async () => {
              const { currentWidget } = jupyterapp.shell;
              await Promise.all([currentWidget.context.ready, currentWidget.sessionContext.ready]);
              await jupyterapp.commands.execute("notebook:run-all-cells");
            }"""
        )
        page.wait_for_selector(".ts-explorer, .jp-OutputArea-output[data-mime-type*=stderr], .jp-RenderedText")
        said = page.locator(".jp-OutputArea-output").all_text_contents()
        assert page.locator(".ts-explorer").count() == 1, (said, errors)
        ready(page)
        look(page, "lab" if "/lab/" in server else "notebook", None)
        yield page
        assert [error for error in errors if "ts-" in error or "explorer" in error] == []
        context.close()


@pytest.fixture
def page(opened: Any) -> Any:
    """The page with the captions and choices that it began with, whatever the test before did."""
    opened.evaluate(
        """() => {
          const page = document.querySelector(".ts-explorer").explorer;
          page.choose({
            correct: "There is severe effusion.", foil: "There is no effusion.", align: false, scope: "pair",
            compare: "", subtract: false, layer: null, column: null, beta: 1,
          });
          page.openTab("ask");
        }"""
    )
    ready(opened)
    return opened


def ready(page: Any) -> None:
    """Until the kernel has answered everything that was asked, and computes nothing."""
    page.wait_for_function(
        """() => {
          const one = document.querySelector(".ts-explorer");
          return one?.explorer.frame?.answered === one?.explorer.asked && one.getAttribute("aria-busy") === "false";
        }"""
    )


def status(page: Any) -> str:
    return str(page.text_content(".ts-status-text"))


def until_text(page: Any, selector: str, words: str) -> None:
    """Until the first element has these words in its text."""
    page.wait_for_function(
        "([selector, words]) => (document.querySelector(selector)?.textContent ?? '').includes(words)",
        arg=[selector, words],
    )


def look(page: Any, name: str, what: str | None = ".ts-explorer") -> None:
    """Keep a picture of an element, or of the window, for a person to look at, where one asked for it."""
    wanted = os.environ.get("TRACESCRIBE_SCREENSHOTS")
    if wanted:
        Path(wanted).mkdir(parents=True, exist_ok=True)
        (page if what is None else page.locator(what).first).screenshot(path=str(Path(wanted) / f"{name}.png"))


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
    assert page.locator(".ts-tokens").nth(0).locator(".ts-differs").all_text_contents() == ["severe"]
    foil = page.locator("input[id$='-foil']")
    foil.fill("There is effusion.")
    ready(page)
    assert "8 and 7 tokens" in status(page)
    page.click(".ts-fix button")
    ready(page)
    assert "traced in" in status(page)
    assert foil.input_value() != "There is effusion." and page.locator(".ts-fix button").count() == 0
    foil.fill("There is no effusion.")
    ready(page)
    assert page.locator(".ts-tokens").nth(1).locator(".ts-differs").all_text_contents() == ["no"]
    assert "traced in" in status(page)


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


def test_the_notebook_leaves_the_keys_to_the_explorer(page: Any) -> None:
    """Arrows, Enter, Escape and letters are commands of a notebook outside of text fields."""
    cells = page.locator(".jp-Notebook .jp-Cell").count()
    page.locator("[role=grid]").first.focus()
    for key in ("ArrowUp", "ArrowUp", "End", "ArrowLeft"):
        page.keyboard.press(key)
    until_text(page, ".ts-panel h3", "layer 1 · token .")
    for key in ("b", "a", "d", "d", "m", "Enter"):
        page.keyboard.press(key)
    page.keyboard.press("Escape")
    page.wait_for_selector(".ts-panel .ts-empty")
    page.focus(".ts-explorer [role=tab][aria-selected=true]")  # Lab has tabs too
    page.keyboard.press("ArrowRight")
    page.focus("input[type=range]")
    page.keyboard.press("ArrowRight")
    until_text(page, ".ts-field output", "1.05")
    page.focus("[data-name=align]")
    page.keyboard.press("Space")
    ready(page)
    assert page.is_checked("[data-name=align]")
    assert page.locator(".jp-Notebook .jp-Cell").count() == cells and page.locator(".ts-explorer").count() == 1
    assert page.evaluate("() => Boolean(document.activeElement.closest('.ts-explorer'))")


def test_two_models_are_compared_on_one_scale(page: Any) -> None:
    page.select_option("[data-name=compare]", "model:tuned")
    page.wait_for_function("() => document.querySelectorAll('.ts-map').length === 3")
    ready(page)
    assert page.locator(".ts-maps .ts-map-name").all_text_contents() == ["A phantom", "B tuned", "B − A"]
    assert page.locator(".ts-ranking .ts-map-name").all_text_contents() == ["A phantom", "B tuned"]
    look(page, "compared")
    page.select_option("[data-name=compare]", "")
    ready(page)
    assert page.locator(".ts-map").count() == 1
    page.select_option("[data-name=scope]", "data")
    ready(page)
    assert "bootstrap interval" in page.text_content(".ts-notes")
    page.check("[data-name=subtract]")
    ready(page)
    assert "minus a control" in page.text_content(".ts-notes")
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


def test_copied_code_gives_the_numbers_on_the_page(page: Any) -> None:
    page.click("[role=tab]:has-text('Copy and export')")
    page.evaluate("() => navigator.clipboard.writeText('something else')")
    page.evaluate(
        """() => {
          window.said = []; // it goes again after two seconds, which a busy machine may sleep through
          const copied = document.querySelector(".ts-copied");
          new MutationObserver(() => said.push(copied.textContent)).observe(copied, { childList: true });
        }"""
    )
    page.click(".ts-copy")
    page.wait_for_function("() => said.includes('copied')")
    code = page.evaluate("() => navigator.clipboard.readText()")
    assert code == page.input_value(".ts-code") and "trace.cte[0]" in code
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
    page.click("[role=tab]:has-text('Copy and export')")
    page.fill(".ts-name", "view")
    page.click(f"[data-suffix='{suffix}']")
    ready(page)
    assert f"wrote view{suffix}" in status(page)
    assert (folder / f"view{suffix}").stat().st_size > 200


def test_an_image_larger_than_a_message_is_taken(page: Any, tmp_path: Path) -> None:
    """Jupyter's server closed the connection to the kernel: it takes messages of 10 MB."""
    from PIL import Image

    noise = np.random.default_rng(0).integers(0, 256, (2050, 2050, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "large.png", compress_level=0)
    assert (tmp_path / "large.png").stat().st_size > 12e6
    page.set_input_files(".ts-file", tmp_path / "large.png")
    until_text(page, ".ts-target-label", "large.png")
    ready(page)
    assert status(page).startswith("traced in")
    page.evaluate(
        """() => document.querySelector(".ts-explorer").explorer.send(
          { do: "target", kind: "text", value: "The lungs are clear." })"""
    )
    ready(page)


def test_the_history_restores(page: Any) -> None:
    page.fill("input[id$='-foil']", "There is mild effusion.")
    ready(page)
    page.click("[role=tab]:has-text('History')")
    count = page.locator(".ts-history li").count()
    assert count >= 2
    page.click("[data-restore='1']")
    ready(page)
    assert "restored trace 1" in status(page) and page.input_value("input[id$='-foil']") == "There is no effusion."
    assert page.locator(".ts-history li").count() == count
    look(page, "history")


def test_captions_are_text_never_markup(page: Any) -> None:
    page.fill("input[id$='-foil']", "There is <img src=x onerror=alert(1)>.")
    ready(page)
    assert "[UNK]" in page.locator(".ts-tokens").nth(1).text_content()
    assert page.locator(".ts-tokens img, .ts-fix img").count() == 0


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
    page.evaluate("() => jupyterapp.commands.execute('docmanager:save')")
    outputs = json.loads((folder / "explore.ipynb").read_text(encoding="utf-8"))["cells"][0]["outputs"]
    forms = [form for output in outputs for form in output.get("data", {})]
    assert "image/png" in forms and "application/vnd.jupyter.widget-view+json" in forms
