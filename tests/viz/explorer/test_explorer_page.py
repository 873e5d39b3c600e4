"""The explorer's page in headless Chromium, without Jupyter: axe, use by keyboard alone, and the time of drawing.

The page is given only what anywidget promises a front end, as Jupyter, VS Code and Colab implement it.
"""

from __future__ import annotations

import base64
import copy
import io
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browsers import AXE, CHROMIUM, NO_AXE, browser, explorer_page, settle, violations

import tracescribe as ts
from tracescribe.benchmark.phantom import build_phantom

pytest.importorskip("anywidget", reason="the extra 'jupyter' is not installed")
pytest.importorskip("playwright", reason="the extra 'browser' is not installed")

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")]

CORRECT, FOIL = "There is severe effusion.", "There is no effusion."
SETTINGS: dict[str, Any] = {
    "correct": CORRECT,
    "foil": FOIL,
    "direction": "foil->correct",
    "site": "resid",
    "metric": "cosine",
}
SETTINGS |= {"align": False, "scope": "pair", "compare": "", "subtract": False, "layer": None, "column": None}
# Everything that the keyboard must reach: what can have the focus and is seen, but for tabs that are not open, which
# the arrow keys of the open one reach.
CONTROLS = """
() => [...document.querySelectorAll(".ts-explorer :is(button, input, select, textarea, [tabindex])")]
  .filter((one) => one.tabIndex >= 0 && !one.disabled && one.offsetParent)
  .map((one) => one.id || one.getAttribute("aria-label") || one.dataset.key || one.textContent.trim())
"""
FOCUSED = """
() => {
  const one = document.activeElement;
  if (!one.closest(".ts-explorer")) return null;
  return one.id || one.getAttribute("aria-label") || one.dataset.key || one.textContent.trim();
}
"""


@pytest.fixture(scope="module")
def explorer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    import torch

    model, tuned = ts.load("phantom"), ts.load("phantom")
    with torch.no_grad():
        for parameter in tuned.source.transformer.resblocks[1].mlp.parameters():
            parameter.mul_(0.5)
    pairs = ts.read_pairs(build_phantom(tmp_path_factory.mktemp("films") / "set", 16, seed=0) / "pairs.jsonl")
    kinds = [[pair for pair in pairs if pair.attribute == kind][:16] for kind in ("existence", "severity")]
    made = ts.viz.explore(
        model,
        kinds[0],
        {"tuned": tuned},
        control=kinds[1],
        correct=CORRECT,
        foil=FOIL,
        target=ts.Text("The lungs are clear."),
    )
    assert made.session.wait(120)
    yield made
    made.close()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser() as started:
        yield started


@pytest.fixture
def page(chromium: Any, explorer: Any, request: pytest.FixtureRequest) -> Iterator[Any]:
    """A page with the explorer as it was made. Parametrise it indirectly with "light" or "dark"."""
    explorer.session.set_target("text", "The lungs are clear.")
    explorer.session.choose(**SETTINGS, beta=1.0)
    made = explorer_page(chromium, explorer, color_scheme=getattr(request, "param", "light"))
    yield made
    made.context.close()


def open_tab(page: Any, name: str) -> None:
    page.click(f"[role=tab]:has-text('{name}')")
    settle(page)


def press(page: Any, *keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)
        settle(page)


def heading(page: Any) -> str:
    return str(page.text_content(".ts-panel:not([hidden]) :is(h3, p)"))


def film_bytes() -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.arange(64 * 64, dtype=np.uint8).reshape(64, 64)).save(buffer, format="PNG")
    return buffer.getvalue()


def focused(page: Any) -> Any:
    return page.evaluate(FOCUSED)


@pytest.mark.skipif(not AXE.is_file(), reason=NO_AXE)
@pytest.mark.parametrize("page", ["light", "dark"], indirect=True)
def test_axe_finds_no_violation_in_any_state(page: Any) -> None:
    found: dict[str, Any] = {}

    def check(state: str) -> None:
        settle(page)
        found[state] = violations(page, ".ts-explorer")

    scheme = "dark" if page.evaluate("() => matchMedia('(prefers-color-scheme: dark)').matches") else "light"
    assert page.get_attribute(".ts-explorer", "data-theme") == scheme
    check("as it begins")
    page.focus("[role=grid]")
    press(page, "ArrowUp", "ArrowUp", "End")
    for question in ("heads", "attention", "data"):
        if page.locator(f"[data-ask={question}]").count():  # an explorer keeps what it knows
            page.click(f"[data-ask={question}]")
            settle(page)
    assert page.locator(".ts-small").count() == 3 and page.locator(".ts-extremes").count() == 2
    check("asked")
    page.select_option("[data-name=compare]", "model:tuned")
    settle(page)
    assert page.locator(".ts-ranking-of").count() == 2  # each model's own
    for tab in ("Prescribe", "History", "Copy and export"):
        open_tab(page, tab)
        check(f"{tab}, two models")
    page.select_option("[data-name=compare]", "")
    page.select_option("[data-name=scope]", "data")
    page.check("[data-name=subtract]")
    check("a data set minus its control")
    page.uncheck("[data-name=subtract]")
    page.select_option("[data-name=scope]", "pair")
    page.fill("input[id$='-foil']", "There is effusion.")
    settle(page)
    assert page.get_attribute(".ts-status", "data-kind") == "problem"
    check("captions of different lengths")
    page.evaluate("() => { document.querySelector('.ts-explorer').style.width = '700px'; }")
    page.wait_for_selector(".ts-explorer.ts-narrow")
    check("narrow")
    assert {state: rules for state, rules in found.items() if rules} == {}


def test_numbers_in_cells_are_readable_on_every_colour(page: Any) -> None:
    """WCAG's 4.5:1 for text; axe does not see into a canvas."""
    least = page.evaluate(
        """async (script) => {
          const exported = script + "; export { DARK, parse, colour, luminance, textColour };";
          const made = URL.createObjectURL(new Blob([exported], { type: "text/javascript" }));
          const { DARK, parse, colour, luminance, textColour } = await import(made);
          const light = document.querySelector(".ts-explorer").explorer.model.get("palette");
          const all = [light, DARK].flatMap((stops) => Array.from({ length: 2001 }, (_, i) => {
            const cell = colour(i / 1000 - 1, 1, parse(stops));
            const ink = luminance(textColour(cell) === "#ffffff" ? [255, 255, 255] : [0, 0, 0]);
            const [dark, bright] = [luminance(cell), ink].sort((a, b) => a - b);
            return (bright + 0.05) / (dark + 0.05);
          }));
          return Math.min(...all);
        }""",
        str(page.evaluate("() => window.script")),
    )
    assert least >= 4.5


def test_names_of_columns_do_not_meet(page: Any) -> None:
    """The names beside a marked token were written over its own."""
    rng = np.random.default_rng(0)
    for n, apart in ((77, 2), (77, 5), (8, 1), (1, 3)):
        marked = (rng.uniform(size=n) < 0.1).tolist()
        named = page.evaluate(
            """async ([script, n, marked, apart]) => {
              const exported = script + "; export { namedColumns };";
              const made = URL.createObjectURL(new Blob([exported], { type: "text/javascript" }));
              return [...(await import(made)).namedColumns(n, marked, apart)].sort((a, b) => a - b);
            }""",
            [str(page.evaluate("() => window.script")), n, marked, apart],
        )
        assert all(two - one >= apart for one, two in pairwise(named))
        assert all(two - one < 2 * apart for one, two in pairwise([-apart, *named, n - 1 + apart]))  # no room is left
        alone = [i for i in range(n) if marked[i] and not any(marked[max(0, i - apart + 1) : i])]
        assert set(alone) <= set(named)


def test_the_page_follows_the_theme_of_vs_code_and_colab(page: Any) -> None:
    marks = [("vscode-light", "light"), ("vscode-dark", "dark"), ("vscode-high-contrast", "dark")]
    marks += [("vscode-high-contrast-light", "light"), ("colab dark", "dark"), ("colab light", "light")]
    for mark, expected in marks:
        page.evaluate(
            """(mark) => {
              const colab = mark.startsWith("colab");
              if (colab) delete document.body.dataset.vscodeThemeKind;
              else document.body.dataset.vscodeThemeKind = mark;
              if (colab) document.documentElement.setAttribute("theme", mark.split(" ")[1]);
            }""",
            mark,
        )
        page.wait_for_function(
            "(theme) => document.querySelector('.ts-explorer').dataset.theme === theme", arg=expected
        )
    page.evaluate("() => document.documentElement.removeAttribute('theme')")
    for background, expected in (("rgb(20, 24, 29)", "dark"), ("oklch(0.98 0 0)", "light"), ("#0008", "dark")):
        page.evaluate("(background) => { document.body.style.background = background; }", background)  # any other page
        page.wait_for_function(
            "(theme) => document.querySelector('.ts-explorer').dataset.theme === theme", arg=expected
        )


def test_tab_reaches_every_control_in_every_tab(page: Any) -> None:
    page.focus("[role=grid]")
    press(page, "ArrowUp", "End", "ArrowUp")
    for tab in ("Ask", "Prescribe", "History", "Copy and export"):
        open_tab(page, tab)
        wanted = page.evaluate(CONTROLS)
        page.evaluate("() => { document.activeElement.blur(); window.getSelection().removeAllRanges(); }")
        page.focus("input[id$='-correct']")
        reached = [focused(page)]
        for _ in range(len(wanted) + 1):
            page.keyboard.press("Tab")
            if focused(page) is None:
                break
            reached.append(focused(page))
        assert reached == wanted  # in the order of the page, each once, and out at the end


def test_the_keyboard_alone_types_chooses_and_switches(page: Any) -> None:
    page.focus("input[id$='-correct']")
    press(page, "Tab")
    assert str(focused(page)).endswith("-foil")
    press(page, "Control+A")
    page.keyboard.type("There is effusion.")
    settle(page)
    press(page, "Tab", "Enter")  # the caption that is offered
    assert page.get_attribute(".ts-status", "data-kind") == "ready"
    assert str(focused(page)).endswith("-foil")  # the button is gone, the focus is not
    for name, value in (
        ("direction", "correct->foil"),
        ("site", "attn"),
        ("scope", "data"),
        ("compare", "model:tuned"),
    ):
        page.focus(f"[data-name={name}]")
        press(page, "ArrowDown")
        assert page.input_value(f"[data-name={name}]") == value
        assert page.evaluate("() => document.activeElement.dataset.name") == name
        press(page, "ArrowUp")
    page.focus("[data-name=preset]")
    press(page, "ArrowDown", "ArrowDown", "ArrowDown")
    assert page.input_value("[data-name=preset]") == "2"  # each was traced on the way, and none was lost
    assert page.input_value("input[id$='-foil']") == page.evaluate(
        "() => document.querySelector('.ts-explorer').explorer.frame.captions.foil.text"
    )
    for name in ("align", "subtract"):
        page.focus(f"[data-name={name}]")
        press(page, "Space")
        assert page.is_checked(f"[data-name={name}]")
        press(page, "Space")
    page.focus("[aria-label='kind of target']")
    press(page, "Home")
    assert page.input_value("[aria-label='kind of target']") == "text"
    page.focus("[aria-label='text of the target']")
    press(page, "Control+A")
    page.keyboard.type("There is mild effusion.")
    press(page, "Enter")
    target = page.evaluate("() => document.querySelector('.ts-explorer').explorer.frame.target")
    assert (target["kind"], target["value"]) == ("text", "There is mild effusion.")
    page.evaluate(
        """() => document.querySelector(".ts-file").addEventListener("click", (event) => {
          event.preventDefault(); // no dialog
          window.chooses = true;
        })"""
    )
    page.focus(".ts-link")
    press(page, "Enter")
    assert page.evaluate("() => window.chooses")
    page.set_input_files(".ts-file", {"name": "film.png", "mimeType": "image/png", "buffer": film_bytes()})
    page.wait_for_function("() => document.querySelector('.ts-target-label').textContent === 'film.png'")
    assert page.locator(".ts-thumbnail img").count() == 1


def test_the_keyboard_alone_asks_cells_rows_and_columns(page: Any) -> None:
    page.focus("[role=grid]")
    press(page, "ArrowUp")
    assert heading(page) == "layer 0 · token [SOT]"
    press(page, "ArrowUp", "ArrowLeft")  # from the first token to the layer's name
    assert heading(page) == "layer 1" and page.locator(".ts-lines tr").count() == 8
    press(page, "ArrowUp", "ArrowRight", "End")
    assert heading(page) == "layer 2 · token [EOT]"
    press(page, "ArrowDown", "ArrowDown", "ArrowDown")  # from layer 0 to the token's name
    assert heading(page) == "token [EOT]" and page.locator(".ts-lines tr").count() == 9
    press(page, "ArrowDown", "ArrowLeft")
    assert heading(page) == "token ."
    press(page, "Home", "ArrowLeft")  # the first layer's first token, and its layer
    assert heading(page) == "layer 0"
    press(page, "ArrowDown")  # there is nothing in the corner
    assert heading(page) == "layer 0"
    press(page, "ArrowUp", "ArrowUp", "End")
    for _ in range(page.locator("[data-ask]").count()):  # each goes when it is answered, and the focus stays
        page.focus("[role=tab][aria-selected=true]")
        page.keyboard.press("Tab")
        while page.evaluate("() => !document.activeElement.dataset.ask"):
            page.keyboard.press("Tab")
        press(page, "Enter")
        assert focused(page) is not None
    assert page.locator(".ts-small").count() == 3 and page.locator(".ts-extremes").count() == 2
    # what is drawn can be heard: every head's number
    assert page.locator(".ts-small").first.locator("tbody tr").count() == 8
    page.focus(".ts-extremes button")
    press(page, "Enter")
    assert page.input_value("[data-name=preset]") != "" and focused(page) is not None
    page.focus("[role=grid]")
    press(page, "Escape")
    assert "Select a cell" in heading(page)


def test_each_selected_cell_is_another_active_cell_to_a_screen_reader(page: Any) -> None:
    grid = page.locator("[role=grid]").first
    grid.focus()
    seen = []
    for key in ("ArrowUp", "ArrowUp", "End", "ArrowLeft", "Escape"):
        press(page, key)
        active = page.locator(f"[id='{grid.get_attribute('aria-activedescendant')}']")
        seen.append((grid.get_attribute("aria-activedescendant"), active.text_content()))
        assert active.get_attribute("hidden") is None and grid.locator("[role=gridcell]:not([hidden])").count() == 1
    assert all(one[0] != two[0] for one, two in pairwise(seen))
    assert [text.rpartition(" CTE ")[0] for _, text in seen[:3]] == [
        "layer 0 · [SOT] ·",
        "layer 1 · [SOT] ·",
        "layer 1 · [EOT] ·",
    ]
    assert seen[-1][1] == "no cell is selected"


def test_the_keyboard_alone_prescribes_restores_copies_and_writes(
    page: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    page.focus("[role=tab][aria-selected=true]")
    press(page, "ArrowRight")
    assert focused(page) == page.get_attribute("[role=tab]:has-text('Prescribe')", "id")
    page.focus("input[type=range]")
    press(page, *["ArrowRight"] * 6)
    assert page.text_content(".ts-field output") == "1.30"
    page.focus("[data-name=normalize]")
    press(page, "ArrowDown")
    assert page.evaluate("() => document.activeElement.dataset.name") == "normalize"
    page.focus("[role=tab][aria-selected=true]")
    press(page, "End", "ArrowLeft")
    assert page.get_attribute("[role=tab]:has-text('History')", "aria-selected") == "true"
    page.focus("input[id$='-foil']")
    press(page, "Control+A")
    page.keyboard.type("There is mild effusion.")
    settle(page)
    page.locator(".ts-history button:not([disabled])").last.focus()
    press(page, "Enter")
    assert "restored trace 1" in str(page.text_content(".ts-status-text")) and focused(page) is not None
    page.focus("[role=tab][aria-selected=true]")
    press(page, "ArrowRight")
    page.focus(".ts-copy")
    page.keyboard.press("Enter")
    page.wait_for_function(
        "async () => (await navigator.clipboard.readText()) === document.querySelector('.ts-code').value"
    )
    page.focus("[data-suffix='.csv']")
    press(page, "Enter")
    assert "wrote explored.csv" in str(page.text_content(".ts-status-text"))
    assert (tmp_path / "explored.csv").stat().st_size > 200


def test_a_candidate_that_is_being_typed_survives_a_new_trace(page: Any, explorer: Any) -> None:
    page.focus("[aria-label='another caption to rank']")
    page.keyboard.type("There is mild")
    explorer.session.choose(site="mlp")
    assert explorer.session.wait(120)
    page.evaluate("async () => window.take(await window.answer(null, []))")
    page.keyboard.type(" effusion.")
    assert page.input_value("[aria-label='another caption to rank']") == "There is mild effusion."
    press(page, "Enter")
    assert "There is mild effusion." in page.locator(".ts-ranking tbody tr").all_text_contents()[1]
    assert page.input_value("[aria-label='another caption to rank']") == ""


def large_frame(explorer: Any, n_layers: int, n_tokens: int) -> tuple[dict[str, Any], bytes]:
    """The frame of a map of this size, with a profile and its interval."""
    frame = copy.deepcopy(explorer.frame)
    cells = np.random.default_rng(0).uniform(-1, 1, (n_layers, n_tokens)).astype("<f4")
    profile = cells.sum(axis=1)
    parts = [cells, profile, profile - 1, profile + 1]
    places, at = [], 0
    for part in parts:
        places.append({"at": at, "length": part.nbytes, "shape": list(part.shape)})
        at += part.nbytes
    [panel] = frame["maps"]["panels"]
    panel |= {
        "cells": places[0],
        "layers": list(range(n_layers)),
        "columns": [f"token{i}" for i in range(n_tokens)],
        "foils": [""] * n_tokens,
        "marked": [i == 7 for i in range(n_tokens)],
        "profile": {"value": places[1], "lo": places[2], "hi": places[3], "name": "sum over tokens"},
    }
    for side in ("correct", "foil"):
        frame["captions"][side] |= {"tokens": panel["columns"], "differs": panel["marked"]}
    frame |= {"plan": None, "ask": None}
    frame["target"]["picture"] = None
    return frame, b"".join(part.tobytes() for part in parts)


@pytest.mark.parametrize("page", ["light", "dark"], indirect=True)
def test_signs_of_cells_without_numbers_can_be_read_in_grey(page: Any, explorer: Any) -> None:
    """Both ends of the colours have the same grey. A contrast of 3:1 is what graphics need (WCAG)."""
    frame, data = large_frame(explorer, 33, 77)
    frame["maps"]["limit"] = 1.0
    cells = np.frombuffer(data, "<f4", 33 * 77)
    contrasts = page.evaluate(
        """([frame, data]) => {
          const page = document.querySelector(".ts-explorer").explorer;
          window.take({ frame, data, palette: page.model.get("palette") });
          const [{ canvas, at }] = page.grids;
          const scale = window.devicePixelRatio;
          const { width, height } = canvas;
          const pixels = canvas.getContext("2d").getImageData(0, 0, width, height).data;
          const light = (x, y) => {
            const from = 4 * (Math.round(y * scale) * width + Math.round(x * scale));
            const linear = [0, 1, 2].map((i) => (pixels[from + i] / 255) ** 2.2);
            return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] + 0.05;
          };
          return Array.from({ length: 33 * 77 }, (_, i) => {
            const x = at.left + (i % 77 + 0.5) * at.cellWidth;
            const y = at.top + (32 - Math.floor(i / 77) + 0.5) * at.cellHeight;
            const around = light(x, y - 0.3 * at.cellHeight);
            return Math.max(...[-1, 0, 1].map((by) => Math.max(light(x, y + by) / around, around / light(x, y + by))));
          });
        }""",
        [frame, base64.b64encode(data).decode()],
    )
    signs = np.array(contrasts) > 3
    far = np.abs(cells) > 0.11
    np.testing.assert_array_equal(signs[far], cells[far] < 0)


def test_77_tokens_by_33_layers_are_drawn_within_a_frame_of_the_screen(page: Any, explorer: Any) -> None:
    """Fluent: 60 pictures per second leave 16.7 ms for one. Seconds of the page's own thread: other load adds none."""
    frame, data = large_frame(explorer, 33, 77)
    page.evaluate(
        """([frame, data]) => {
          const page = document.querySelector(".ts-explorer").explorer;
          window.take({ frame, data, palette: page.model.get("palette") });
          const draw = (work) => () => {
            for (let i = 0; i < 20; i++) {
              work(i);
              page.grids[0].canvas.getContext("2d").getImageData(0, 0, 1, 1); // until it is drawn
            }
          };
          window.moveCell = draw((i) => { page.local = { layer: i % 33, column: i % 77 }; page.drawMaps(); });
          window.drawEverything = draw(() => page.update(true));
          moveCell();
        }""",
        [frame, base64.b64encode(data).decode()],
    )
    assert page.get_attribute("[role=grid]", "aria-colcount") == "77"
    tool = page.context.new_cdp_session(page)
    tool.send("Performance.enable", {"timeDomain": "threadTicks"})

    def seconds_of(function: str) -> float:
        def spent() -> float:
            metrics = {one["name"]: one["value"] for one in tool.send("Performance.getMetrics")["metrics"]}
            return float(metrics["TaskDuration"])

        before = spent()
        page.evaluate(f"() => {function}()")
        return (spent() - before) / 20

    times = {name: seconds_of(name) for name in ("moveCell", "drawEverything")}
    assert 0 < times["moveCell"] < 1 / 60 and times["drawEverything"] < 2 / 60, times
