"""Chromium for tests: how it is started, what axe finds in a page, and a page with an explorer but without Jupyter."""

from __future__ import annotations

import base64
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
AXE = Path(os.environ.get("TRACESCRIBE_AXE", Path(__file__).parents[1] / "node_modules/axe-core/axe.min.js"))
NO_AXE = "needs axe-core: `npm install --no-save axe-core`, or TRACESCRIBE_AXE=axe.min.js"
SLOW = 180_000  # milliseconds that a busy machine may take for one step

# What anywidget gives to a front end: a model with get, on, off and send. Each request is answered by one frame.
_HOST = """
async ([script, style]) => {
  const sheet = document.createElement("style");
  sheet.textContent = style;
  document.head.append(sheet);
  window.script = script;
  const url = URL.createObjectURL(new Blob([script], { type: "text/javascript" }));
  const { default: widget } = await import(url);
  const listeners = new Set();
  let state = {};
  const take = ({ frame, data, palette }) => {
    const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
    state = { frame, palette, data: new DataView(bytes.buffer) };
    listeners.forEach((listener) => listener());
  };
  const model = {
    get: (name) => state[name],
    on: (event, listener) => { if (event === "change:frame") listeners.add(listener); },
    off: (event, listener) => listeners.delete(listener),
    send: async (content, callbacks, buffers = []) => {
      const encoded = buffers.map((buffer) => btoa(String.fromCharCode(...new Uint8Array(buffer))));
      window.pending = (window.pending ?? 0) + 1;
      take(await window.answer(content, encoded));
      window.pending -= 1;
    },
  };
  window.take = take;
  take(await window.answer(null, []));
  widget.render({ model, el: document.querySelector("main") });
}
"""


@contextmanager
def browser() -> Iterator[Any]:
    """Chromium without a window; ended afterwards."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as tool:
        arguments = ["--no-sandbox", "--disable-dev-shm-usage"]
        started = tool.chromium.launch(executable_path=CHROMIUM, args=arguments, timeout=SLOW)
        try:
            yield started
        finally:
            started.close()


def explorer_page(started: Any, explorer: Any, **context: Any) -> Any:
    """A page with nothing but an explorer, whose requests are answered in this process, each by its last frame.

    context: options of the browser's context, such as ``color_scheme``.
    """
    made = started.new_context(viewport={"width": 1500, "height": 1400}, **context)
    made.grant_permissions(["clipboard-read", "clipboard-write"])
    page = made.new_page()
    page.set_default_timeout(SLOW)
    html = '<!doctype html><html lang="en"><title>explorer</title><h1>Explorer</h1><main></main></html>'
    page.route("**/*", lambda route: route.fulfill(content_type="text/html", body=html))

    def answer(content: Any, buffers: list[str]) -> dict[str, Any]:
        if content is not None:
            explorer._receive(explorer, content, [base64.b64decode(one) for one in buffers])
        assert explorer.session.wait(120)
        return {
            "frame": explorer.frame,
            "data": base64.b64encode(explorer.data).decode(),
            "palette": list(explorer.palette),
        }

    page.expose_function("answer", answer)
    page.goto("http://localhost/")  # answered by the route above: a secure context, for the clipboard
    page.evaluate(_HOST, [str(explorer._esm), str(explorer._css)])
    settle(page)
    return page


def settle(page: Any) -> None:
    """Until every request to an explorer of :func:`explorer_page` is answered, and drawn."""
    page.wait_for_function("() => !window.pending && document.querySelector('.ts-status-text')?.textContent")


def violations(page: Any, selector: str) -> list[tuple[str, str, list[str]]]:
    """What axe finds wrong inside an element: rules, with the markup that breaks them."""
    if page.evaluate("() => typeof window.axe") == "undefined":
        page.evaluate(AXE.read_text(encoding="utf-8"))
    found = page.evaluate("(selector) => axe.run(selector).then(({ violations }) => violations)", selector)
    return [
        (rule["id"], rule["help"], [node["html"][:300] + str(node["failureSummary"]) for node in rule["nodes"]])
        for rule in found
    ]
