"""The explorer in front ends that are not JupyterLab, in headless Chromium.

- Voilà, with a live kernel.
- VS Code's widget manager (the npm package that its Jupyter extension loads), in a page with the style sheets, the key
  listener and the content policy of VS Code's notebook output. VS Code itself is not started.
- Jupyter's html-manager, which shows widgets in exported pages, without a kernel. Colab's manager is built like it.

The npm packages are looked for in node_modules, or in the folder that TRACESCRIBE_NODE_MODULES names: `npm install
--no-save requirejs @jupyter-widgets/html-manager @vscode/jupyter-ipywidgets8`, or unpack what `npm pack` gives of them.
"""

from __future__ import annotations

import base64
import importlib.util
import json
import os
import queue
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from browsers import CHROMIUM, SLOW, browser, explorer_page

pytest.importorskip("anywidget", reason="the extra 'jupyter' is not installed")
pytest.importorskip("playwright", reason="the extra 'browser' is not installed")

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")]

MODULES = Path(os.environ.get("TRACESCRIBE_NODE_MODULES", Path(__file__).parents[3] / "node_modules"))
REQUIREJS = MODULES / "requirejs/require.js"
HTML_MANAGER = MODULES / "@jupyter-widgets/html-manager/dist/embed-amd.js"
VS_CODE = MODULES / "@vscode/jupyter-ipywidgets8/dist/ipywidgets.js"
ANYWIDGET = Path(sys.prefix, "share/jupyter/nbextensions/anywidget/index.js")
NEEDS = "needs {} in node_modules (see the head of this file)"
ADDRESS = "http://localhost/"  # answered by the test; a secure context, for the clipboard
NOTEBOOK = """\
import tracescribe as ts

explorer = ts.viz.explore(
    ts.load("phantom"), correct="There is severe effusion.", foil="There is no effusion.",
    target=ts.Text("The lungs are clear."),
)
explorer
"""

# The rules of VS Code's notebook output that meet the explorer's elements, in its dark theme.
VS_CODE_STYLE = """
:root { --vscode-editor-foreground: #cccccc; --vscode-editor-background: #1f1f1f; --vscode-focusBorder: #0078d4; }
body { margin: 0; padding: 0 20px; color: #cccccc; font: 13px system-ui; background: transparent; }
img, video { max-width: 100%; max-height: 100%; }
a, a code { color: #4daafc; }
a:focus, input:focus, select:focus, textarea:focus { outline: 1px solid -webkit-focus-ring-color; }
table, thead, tr, th, td, tbody { border: none; border-color: transparent; border-spacing: 0; }
table, th, tr { vertical-align: middle; text-align: right; }
thead { font-weight: bold; background-color: rgba(130, 130, 130, 0.16); }
th, td { padding: 4px 8px; }
tr:nth-child(even) { background-color: rgba(130, 130, 130, 0.08); }
tbody th { font-weight: normal; }
.cell-output-ipywidget-background { background: white !important; }
"""

# A kernel connection as VS Code's manager sees it, with comms only. opened: what was sent before the page was there;
# `deliver` takes what is sent later.
VS_CODE_HOST = """
async ([model_id, opened]) => {
  const signal = () => ({ connect: () => true, disconnect: () => true });
  const comms = new Map();
  const targets = new Map();
  const encode = (buffers = []) => [...buffers].map((one) => {
    const view = ArrayBuffer.isView(one) ? one : new Uint8Array(one);
    return btoa(String.fromCharCode(...new Uint8Array(view.buffer, view.byteOffset, view.byteLength)));
  });
  let messages = 0;
  const id = () => ({ header: { msg_id: `m${++messages}` } });
  const future = () => ({ msg: id(), done: Promise.resolve(), dispose: () => null });
  class Comm {
    constructor(targetName, commId) {
      Object.assign(this, { targetName, commId, isDisposed: false });
      comms.set(commId, this);
    }
    open(data, metadata, buffers) { return future(); }
    send(data, metadata, buffers) { window.toKernel(this.commId, data, encode(buffers)); return future(); }
    close() { comms.delete(this.commId); return future(); }
    dispose() { this.isDisposed = true; }
  }
  window.deliver = async ({ type, id, target, data, buffers }) => {
    const raw = buffers.map((one) => new DataView(Uint8Array.from(atob(one), (letter) => letter.charCodeAt(0)).buffer));
    const message = {
      header: { msg_type: type, msg_id: `k${++messages}`, version: "5.3" }, parent_header: {}, channel: "iopub",
      metadata: { version: "2.1.0" }, content: { comm_id: id, target_name: target, data }, buffers: raw,
    };
    if (type === "comm_open") await targets.get(target)(new Comm(target, id), message);
    else if (type === "comm_msg") await comms.get(id)?.onMsg?.(message);
  };
  const kernel = {
    id: "kernel", name: "python3", username: "", clientId: "client", status: "idle", connectionStatus: "connected",
    handleComms: true, isDisposed: false, info: Promise.resolve({}), model: { id: "kernel", name: "python3" },
    statusChanged: signal(), connectionStatusChanged: signal(), iopubMessage: signal(), unhandledMessage: signal(),
    anyMessage: signal(), disposed: signal(), hasComm: (id) => comms.has(id),
    createComm: (target, id) => new Comm(target, id ?? `made${++messages}`),
    registerCommTarget: (target, open) => targets.set(target, open), removeCommTarget: () => null,
    requestCommInfo: async () => ({ content: { status: "ok", comms: {} } }), dispose: () => null,
  };
  const loader = {
    widgetsRegisteredInRequireJs: new Set(), successHandler: () => null,
    errorHandler: (...all) => { window.failed = String(all); },
    loadWidgetScript: async (name) => { requirejs.config({ paths: { [name]: "/nbextensions/anywidget/index" } }); },
  };
  const made = await import("/ipywidgets.js");
  made.activate();
  window.vscIPyWidgets8.load();
  const manager = new window.vscIPyWidgets.WidgetManager(kernel, undefined, loader, () => null);
  window.manager = manager;
  // VS Code forwards every key that arrives at the window, and makes commands of them
  window.forwarded = [];
  window.addEventListener("keydown", (event) => window.forwarded.push(event.key));
  for (const one of opened) await window.deliver(one);
  const element = document.querySelector(".cell-output-ipywidget-background");
  const view = await manager.create_view(await manager.get_model(model_id), { el: element });
  await manager.display_view({ model_id }, view, { node: element });
  window.setTimeout(() => { // it makes buttons focusable, half a second later
    for (const button of element.querySelectorAll("button:not([tabindex])")) {
      button.setAttribute("tabindex", "0");
      button.addEventListener("keydown", (event) => {
        if (event.key === "Enter" || event.key === " ") { event.preventDefault(); button.click(); }
      });
    }
    window.prepared = true;
  }, 500);
}
"""


# How every element of the explorer looks, but for what has the focus.
STYLES = """
() => {
  const kinds = ["color", "backgroundColor", "fontFamily", "fontSize", "fontWeight", "lineHeight", "textAlign"];
  kinds.push("textDecorationLine", "verticalAlign", "padding", "margin", "borderTopWidth", "borderBottomWidth");
  kinds.push("borderBottomColor", "outlineStyle");
  return [...document.querySelectorAll(".ts-explorer, .ts-explorer *")].map((one) => {
    const style = getComputedStyle(one);
    return [one.tagName, one.className, ...kinds.map((kind) => `${kind} ${style[kind]}`)].join("; ");
  });
}
"""


class Wire:
    """The comms of widgets made in this process, which a page reads and answers."""

    def __init__(self) -> None:
        self.sent: queue.Queue[dict[str, Any]] = queue.Queue()
        self.comms: dict[str, Any] = {}

    def create_comm(self, **options: Any) -> Any:
        from comm.base_comm import BaseComm

        wire = self

        class Comm(BaseComm):
            def publish_msg(
                self, msg_type: str, data: Any = None, metadata: Any = None, buffers: Any = None, **keys: Any
            ) -> None:
                encoded = [base64.b64encode(one).decode() for one in buffers or []]
                message = {"type": msg_type, "id": self.comm_id, "target": self.target_name, "data": data or {}}
                wire.sent.put(json.loads(json.dumps(message)) | {"buffers": encoded})

        made = Comm(**options)
        self.comms[made.comm_id] = made
        return made

    def take(self, comm_id: str, data: Any, buffers: list[str]) -> None:
        """A message of the page."""
        raw = [memoryview(base64.b64decode(one)) for one in buffers]
        self.comms[comm_id].handle_msg({"content": {"comm_id": comm_id, "data": data}, "buffers": raw})

    def waiting(self) -> Iterator[dict[str, Any]]:
        while not self.sent.empty():
            yield self.sent.get()

    def flush(self, page: Any) -> None:
        for message in self.waiting():
            page.evaluate("(message) => window.deliver(message)", message)


def film() -> bytes:
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.new("L", (64, 64), 90).save(buffer, format="PNG")
    return buffer.getvalue()


def answered(page: Any) -> bool:
    return bool(
        page.evaluate(
            """() => {
              const one = document.querySelector(".ts-explorer");
              const { explorer } = one ?? {};
              return Boolean(explorer?.frame) && explorer.frame.answered === explorer.asked
                && one.getAttribute("aria-busy") === "false";
            }"""
        )
    )


def until(page: Any, holds: Callable[[], bool], between: Callable[[], None] = lambda: None) -> None:
    end = time.monotonic() + SLOW / 1000
    while True:
        between()
        if holds():
            return
        assert time.monotonic() < end, (page.text_content(".ts-status-text"), page.evaluate("() => window.failed"))
        page.wait_for_timeout(50)


def look(page: Any, name: str) -> None:
    wanted = os.environ.get("TRACESCRIBE_SCREENSHOTS")
    if wanted:
        Path(wanted).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=str(Path(wanted) / f"{name}.png"), full_page=True)


def use(page: Any, settle: Callable[[], None], folder: Path) -> None:
    """Type, ask, prescribe, copy and export; the file is written where the kernel runs."""
    foil = page.locator("input[id$='-foil']")
    foil.fill("There is effusion.")
    settle()
    assert "8 and 7 tokens" in page.text_content(".ts-status-text")
    page.click(".ts-fix button")
    settle()
    assert "traced in" in page.text_content(".ts-status-text")
    canvas = page.locator(".ts-map canvas").first
    at = page.evaluate("() => document.querySelector('.ts-explorer').explorer.grids[0].at")
    position = {"x": at["left"] + 7.5 * at["cellWidth"], "y": at["top"] + 5.5 * at["cellHeight"]}
    canvas.click(position=position)
    settle()
    assert page.text_content(".ts-panel h3") == "layer 3 · token [EOT]"
    page.click("[data-ask=heads]")
    settle()
    assert page.locator(".ts-small canvas").count() == 1
    page.click("[role=tab]:has-text('Prescribe')")
    page.locator("input[type=range]").focus()
    page.keyboard.press("ArrowRight")
    settle()
    assert page.text_content(".ts-field output") == "1.05"
    page.click("[role=tab]:has-text('Copy and export')")
    page.click(".ts-copy")
    page.wait_for_function("() => document.querySelector('.ts-copied').textContent === 'copied'")
    assert page.evaluate("() => navigator.clipboard.readText()") == page.input_value(".ts-code")
    page.click("[data-suffix='.csv']")
    settle()
    assert "wrote explored.csv" in page.text_content(".ts-status-text")
    assert (folder / "explored.csv").stat().st_size > 200


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser() as started:
        yield started


@pytest.fixture
def page(chromium: Any) -> Iterator[Any]:
    """An empty page. What it asks of the network is refused and kept: page.asked."""
    context = chromium.new_context(viewport={"width": 1500, "height": 1400})
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    made = context.new_page()
    made.set_default_timeout(SLOW)
    made.asked, made.errors = [], []
    made.on("pageerror", lambda error: made.errors.append(str(error)))
    yield made
    context.close()


def serve(page: Any, html: str, files: dict[str, Path]) -> None:
    """Answer the page's requests from files of this machine; of anything else, only keep that it was asked for."""

    def answer(route: Any) -> None:
        address = route.request.url
        found = next((file for end, file in files.items() if address.split("?")[0].endswith(end)), None)
        if address == ADDRESS:
            route.fulfill(content_type="text/html", body=html)
        elif found is not None:
            route.fulfill(content_type="text/javascript", body=found.read_text(encoding="utf-8"))
        else:
            page.asked.append(address)
            route.abort()

    page.route("**/*", answer)


@pytest.mark.skipif(importlib.util.find_spec("voila") is None, reason="the extra 'browser' is not installed")
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_voila(page: Any, theme: str, tmp_path: Path) -> None:
    import nbformat

    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(NOTEBOOK)],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
    )
    nbformat.write(notebook, tmp_path / "explore.ipynb")
    names = ("JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")
    environment = {**os.environ, **{name: str(tmp_path / name) for name in names}, "OMP_NUM_THREADS": "1"}
    port = free_port()
    command = [sys.executable, "-m", "voila", "explore.ipynb", "--no-browser", f"--port={port}", f"--theme={theme}"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--Voila.ip=127.0.0.1"], cwd=tmp_path, env=environment, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            address = f"http://127.0.0.1:{port}/"
            until(page, lambda: answers(process, f"{address}voila/static/voila.js", tmp_path / "log"))
            page.on("request", lambda request: page.asked.append(request.url))
            page.goto(address)
            page.wait_for_selector(".ts-explorer")

            def settle() -> None:
                until(page, lambda: answered(page))

            settle()
            assert page.get_attribute(".ts-explorer", "data-theme") == theme
            use(page, settle, tmp_path)
            look(page, f"voila_{theme}")
            outside = [one for one in page.asked if not one.startswith((address, "data:", "blob:"))]
            assert all("fontawesome" in one for one in outside), outside  # Voilà's own style sheet; not needed
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    # the kernel is gone: the page says so, and does not wait for ever
    page.fill("input[id$='-foil']", "There is no effusion.")
    page.wait_for_function("() => document.querySelector('.ts-status-text').textContent.startsWith('no answer')")
    assert page.get_attribute(".ts-status", "data-kind") == "problem"


def free_port() -> int:
    import socket

    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def answers(process: subprocess.Popen[bytes], address: str, log: Path) -> bool:
    assert process.poll() is None, log.read_text()[-3000:]
    try:
        urllib.request.urlopen(address, timeout=30).close()
    except OSError:
        return False
    return True


@pytest.mark.skipif(
    not (VS_CODE.is_file() and REQUIREJS.is_file()), reason=NEEDS.format("@vscode/jupyter-ipywidgets8 and requirejs")
)
def test_the_widget_manager_of_vs_code(
    page: Any, chromium: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import comm

    wire = Wire()
    monkeypatch.setattr(comm, "create_comm", wire.create_comm)
    monkeypatch.chdir(tmp_path)
    space: dict[str, Any] = {}
    exec(NOTEBOOK, space)
    explorer = space["explorer"]
    assert explorer.session.wait(120)
    policy = "default-src 'none'; script-src 'self' blob: 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; "
    html = f"""<!doctype html><html lang="en">
      <meta http-equiv="Content-Security-Policy" content="{policy} img-src https: http: data:">
      <style>{VS_CODE_STYLE}</style><script src="/require.js"></script>
      <body class="vscode-dark" data-vscode-theme-kind="vscode-dark">
      <div class="cell-output-ipywidget-background"></div>"""
    files = {"/require.js": REQUIREJS, "/ipywidgets.js": VS_CODE, "/nbextensions/anywidget/index.js": ANYWIDGET}
    serve(page, html, files)
    page.expose_function("toKernel", wire.take)
    page.goto(ADDRESS)
    page.evaluate(VS_CODE_HOST, [explorer.model_id, list(wire.waiting())])
    page.wait_for_function("() => window.prepared")

    def settle() -> None:
        until(page, lambda: answered(page) and wire.sent.empty(), lambda: wire.flush(page))

    settle()
    look(page, "vscode")
    assert page.get_attribute(".ts-explorer", "data-theme") == "dark"
    alone = explorer_page(chromium, explorer, color_scheme="dark")  # the same view without VS Code's style sheets
    assert page.evaluate(STYLES) == alone.evaluate(STYLES)
    alone.context.close()
    use(page, settle, tmp_path)
    # a film's picture passes the content policy
    page.set_input_files(".ts-file", {"name": "film.png", "mimeType": "image/png", "buffer": film()})
    until(page, lambda: page.text_content(".ts-target-label") == "film.png", lambda: wire.flush(page))
    page.wait_for_function("() => document.querySelector('.ts-thumbnail img').naturalWidth > 0")
    # keys of the explorer are none of VS Code's commands; its combinations reach it, and a button's Enter acts once
    page.focus("[role=grid]")
    for key in ("ArrowUp", "ArrowRight", "a", "d", "Delete", "Control+Shift+P", "Shift+Enter"):
        page.keyboard.press(key)
    settle()
    assert page.evaluate("() => window.forwarded") == ["Control", "Shift", "P", "Shift", "Enter"]
    page.click("[role=tab]:has-text('Copy and export')")
    asked = page.evaluate("() => document.querySelector('.ts-explorer').explorer.asked")
    page.focus("[data-suffix='.csv']")
    page.keyboard.press("Enter")
    settle()
    assert page.evaluate("() => document.querySelector('.ts-explorer').explorer.asked") == asked + 1
    assert page.asked == [] and page.errors == []  # nothing was asked of the network
    explorer.close()


@pytest.mark.skipif(
    not (HTML_MANAGER.is_file() and REQUIREJS.is_file()),
    reason=NEEDS.format("@jupyter-widgets/html-manager and requirejs"),
)
def test_an_exported_page_shows_the_view_and_says_that_no_kernel_answers(page: Any) -> None:
    from ipywidgets.embed import embed_snippet

    space: dict[str, Any] = {}
    exec(NOTEBOOK, space)
    explorer = space["explorer"]
    assert explorer.session.wait(120)
    snippet = embed_snippet(views=[explorer], embed_url="/embed-amd.js")
    snippet = re.sub("<script src=[^>]*require.min.js[^>]*>", '<script src="/require.js">', snippet)
    html = f'<!doctype html><html lang="en"><body>{snippet}'
    # an exported page asks a public server for anywidget's script; here it gets the file of the environment
    serve(page, html, {"/require.js": REQUIREJS, "/embed-amd.js": HTML_MANAGER, "/dist/index.js": ANYWIDGET})
    page.goto(ADDRESS)
    page.wait_for_selector(".ts-map canvas")
    assert (
        page.evaluate("() => Array.from(document.querySelector('.ts-explorer').explorer.grids[0].panel.cells)")[-1] == 1
    )
    look(page, "exported")
    page.fill("input[id$='-foil']", "There is mild effusion.")
    page.wait_for_function("() => document.querySelector('.ts-status-text').textContent.startsWith('no answer')")
    explorer.close()
