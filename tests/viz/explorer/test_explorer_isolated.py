"""The explorer in the strictest host that anywidget's front-end modules have, in headless Chromium.

Front ends such as VS Code and Colab show outputs in a sandboxed frame of another origin, under a content policy, and
some (marimo) in a shadow tree. Here all of these hold at once, no loader such as require.js is there, and the module is
given nothing but what anywidget specifies: get, on, off, send, binary state as a DataView, and an element.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator
from typing import Any

import pytest
from browsers import CHROMIUM, SLOW, browser

import tracescribe as ts

pytest.importorskip("anywidget", reason="the extra 'jupyter' is not installed")

PAGE, FRAME = "http://localhost/", "http://output.localhost/frame"
MODULE = "http://output.localhost/explorer.js"
# Scripts of one address only, no style of the page's own, pictures only inside it; no eval, no connection, no form.
POLICY = f"default-src 'none'; script-src {MODULE}; img-src data:; base-uri 'none'; form-action 'none'"
# What a front end's page hands down to the elements in its outputs.
HOSTILE = (
    "text-align: right; letter-spacing: 0.3em; word-spacing: 1em; text-transform: uppercase; text-indent: 2em;"
    "white-space: pre; font: italic small-caps bold 22px/3 serif; color: red; list-style: square; border-spacing: 9px;"
    "cursor: wait; visibility: visible; overflow-wrap: normal; line-break: anywhere; word-break: break-all;"
)
HOST = """
async ([module, style, hostile]) => {
  Object.assign(window, { refused: [], beyond: [] });
  document.addEventListener("securitypolicyviolation", (event) => {
    window.refused.push(`${event.violatedDirective} ${event.blockedURI} ${event.sample}`);
  });
  const host = document.createElement("div");
  host.style.cssText = hostile;
  document.body.append(host);
  const shadow = host.attachShadow({ mode: "open" });
  const sheet = new CSSStyleSheet();
  sheet.replaceSync(style);
  shadow.adoptedStyleSheets = [sheet];
  const el = document.createElement("div");
  shadow.append(el);
  const listeners = new Map();
  let state = {};
  const take = ({ data, ...rest }) => {
    const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
    const message = new Uint8Array(bytes.length + 3); // a part of a message, not aligned to a number's size
    message.set(bytes, 3);
    state = { ...rest, data: new DataView(message.buffer, 3, bytes.length) };
    for (const name of ["data", "frame"]) for (const listener of listeners.get(`change:${name}`) ?? []) listener();
  };
  const offered = {
    get: (name) => state[name],
    on: (event, listener) => listeners.set(event, [...(listeners.get(event) ?? []), listener]),
    off: (event, listener) => listeners.set(event, (listeners.get(event) ?? []).filter((one) => one !== listener)),
    send: async (content, callbacks, buffers = []) => {
      const encoded = buffers.map((one) => btoa(String.fromCharCode(...new Uint8Array(one))));
      window.pending = (window.pending ?? 0) + 1;
      take(await window.answer(content, encoded));
      window.pending -= 1;
    },
  };
  const get = (known, name) => {
    if (!(name in known)) beyond.push(String(name));
    return known[name];
  };
  const model = new Proxy(offered, { get });
  take(await window.answer(null, []));
  const { default: widget } = await import(module);
  window.close_ = widget.render({ model, el });
  window.root = shadow;
}
"""
SETTLED = """
() => !window.pending && window.root?.querySelector(".ts-status-text")?.textContent
  && window.root.querySelector(".ts-explorer").getAttribute("aria-busy") === "false"
"""
INHERITED = """
() => {
  const names = ["textAlign", "letterSpacing", "wordSpacing", "textTransform", "textIndent", "fontStyle"];
  names.push("fontVariant", "whiteSpace", "listStyleType", "cursor", "wordBreak", "lineBreak");
  const style = getComputedStyle(window.root.querySelector(".ts-status-text"));
  return names.map((name) => style[name]);
}
"""
PLAIN = ["start", "normal", "0px", "none", "0px", "normal", "normal", "normal", "none", "auto", "normal", "auto"]


def test_script_and_style_know_no_front_end_but_by_marks_with_a_fallback() -> None:
    explorer = ts.viz.explore(ts.load("phantom"), correct="There is no edema.", foil="There is severe edema.")
    try:
        script, style = str(explorer._esm), str(explorer._css)
    finally:
        explorer.close()
    for text in (script, style):
        assert not re.search(r"--(jp|vscode|colab|md|theme)-", text)  # variables that only one front end sets
        assert not re.search(r"https?://|@import|url\(", text)
    for word in ("require(", "define(", "import ", "import(", "localStorage", "sessionStorage", "eval(", "innerHTML"):
        assert word not in script, word
    assert set(re.findall(r"model\.(\w+)", script)) == {"get", "on", "off", "send"}
    assert set(re.findall(r"(?<!-)--[\w-]+", style)) == set(re.findall(r"(--ts-[\w-]+)", style))


@pytest.fixture(scope="module")
def isolated() -> Iterator[tuple[Any, Any, list[str]]]:
    """The frame with the explorer in it, the explorer, and what was asked of the network."""
    pytest.importorskip("playwright", reason="the extra 'browser' is not installed")
    explorer = ts.viz.explore(
        ts.load("phantom"),
        correct="There is severe effusion.",
        foil="There is no effusion.",
        target=ts.Text("The lungs are clear."),
    )
    assert explorer.session.wait(120)
    asked: list[str] = []

    def serve(route: Any) -> None:
        address = route.request.url
        asked.append(address)
        if address == PAGE:
            frame = (
                f'<iframe sandbox="allow-scripts" src="{FRAME}" style="width:1100px;height:1300px;border:0"></iframe>'
            )
            route.fulfill(content_type="text/html", body=f"<!doctype html><title>host</title><body>{frame}")
        elif address == FRAME:
            html = '<!doctype html><html lang="en"><title>output</title><body></body></html>'
            route.fulfill(content_type="text/html", body=html, headers={"Content-Security-Policy": POLICY})
        elif address == MODULE:
            headers = {"Access-Control-Allow-Origin": "*"}  # the frame's origin is none
            route.fulfill(content_type="text/javascript", body=str(explorer._esm), headers=headers)
        else:
            route.abort()

    def answer(content: Any, buffers: list[str]) -> dict[str, Any]:
        if content is not None:
            explorer._receive(explorer, content, [base64.b64decode(one) for one in buffers])
        assert explorer.session.wait(120)
        data = base64.b64encode(explorer.data).decode()
        return {"frame": explorer.frame, "data": data, "palette": list(explorer.palette)}

    with browser() as started:
        page = started.new_page(viewport={"width": 1140, "height": 1340})
        page.set_default_timeout(SLOW)
        page.route("**/*", serve)
        page.expose_function("answer", answer)
        page.goto(PAGE)
        frame = next(one for one in page.frames if one.url == FRAME)
        frame.evaluate(HOST, [MODULE, str(explorer._css), HOSTILE])
        settle(frame)
        yield frame, explorer, asked
    explorer.close()


def settle(frame: Any) -> None:
    frame.wait_for_function(SETTLED)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_the_explorer_needs_nothing_but_the_protocol(
    isolated: tuple[Any, Any, list[str]], tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    frame, explorer, asked = isolated
    assert frame.evaluate("() => window.origin") == "null"
    assert frame.evaluate("() => [typeof require, typeof define, typeof Jupyter]") == ["undefined"] * 3
    assert frame.evaluate(INHERITED) == PLAIN  # it looks alike wherever it stands
    assert frame.locator(".ts-bar").first.bounding_box()["width"] > 20
    foil = frame.locator("input[id$='-foil']")
    foil.fill("There is effusion.")
    settle(frame)
    assert "8 and 7 tokens" in frame.text_content(".ts-status-text")
    frame.click(".ts-fix button")
    settle(frame)
    frame.focus("[role=grid]")
    for key in ("ArrowUp", "ArrowUp", "End"):
        frame.page.keyboard.press(key)
    settle(frame)
    assert frame.text_content(".ts-panel h3") == "layer 1 · token [EOT]"
    cells = frame.evaluate("() => Array.from(window.root.querySelector('.ts-explorer').explorer.grids[0].panel.cells)")
    assert cells == explorer.session.panels().panels[0].values.ravel().astype("f4").tolist()
    for question in ("heads", "attention"):
        frame.click(f"[data-ask={question}]")
        settle(frame)
    assert frame.locator(".ts-small canvas").count() == 3
    picture = io.BytesIO()
    Image.new("L", (64, 64), 90).save(picture, format="PNG")
    frame.set_input_files(".ts-file", {"name": "film.png", "mimeType": "image/png", "buffer": picture.getvalue()})
    frame.wait_for_function("() => window.root.querySelector('.ts-thumbnail img')?.naturalWidth > 0")
    settle(frame)
    frame.click("[role=tab]:has-text('Prescribe')")
    frame.locator("input[type=range]").focus()
    frame.page.keyboard.press("ArrowRight")
    settle(frame)
    assert frame.text_content(".ts-field output") == "1.05"
    frame.click("[role=tab]:has-text('Copy and export')")
    frame.click(".ts-copy")  # such a frame may not write to the clipboard: the code is at least selected
    frame.wait_for_function("() => window.root.querySelector('.ts-copied').textContent")
    chosen = frame.evaluate(
        "() => { const one = window.root.querySelector('.ts-code'); return one.selectionEnd - one.selectionStart; }"
    )
    assert chosen == len(frame.input_value(".ts-code")) > 100
    frame.click("[data-suffix='.csv']")
    settle(frame)
    assert (tmp_path / "explored.csv").stat().st_size > 200
    assert frame.evaluate("() => window.refused") == [] and frame.evaluate("() => window.beyond") == []
    assert asked == [PAGE, FRAME, MODULE]  # nothing else is fetched
    frame.evaluate("() => window.close_()")
    assert frame.evaluate("() => { document.body.dataset.jpThemeLight = 'false'; return true; }")  # heard by nobody
