// The page of tracescribe's explorer. It draws frames that Python sends and sends requests back; it computes no result.
// Everything from captions, ids and files is put in as text, never as markup. No dependency, no network, no build.

const DARK = ["#a6d1f0", "#6fb1e0", "#3f8ac4", "#2a628f", "#23425c", "#20252c", "#5c2f2f", "#93403a", "#c9604e", "#ec8f73", "#ffc4a8"];
const SIDES = ["correct", "foil"];
const NAMES = {
  "foil->correct": "foil → correct", "correct->foil": "correct → foil",
  resid: "residual stream", attn: "attention output", mlp: "MLP output",
  pair: "this pair", data: "data set", sum: "sum", max: "largest", mean: "mean", std: "spread (std)",
  cosine: "cosine", margin: "margin over rivals", probability: "probability", rank: "rank among candidates",
  blocks: "all blocks", inner: "last block from its neighbour", minmax: "min–max", none: "as they are",
};
const FOCUSABLE = ["button", "input", "select", "textarea"];
const LARGEST = 50e6; // bytes of a file that is dropped
const PART = 4e6; // of one message: Jupyter's servers close a connection that sends more than 10 MB at once
const PATIENCE = 3000; // milliseconds without an answer after which the page says so
let serial = 0;

// -- small helpers ----------------------------------------------------------------------------------------------------

function h(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "class") node.className = value;
    else if (name === "style") node.style.cssText = value; // a strict content policy refuses the attribute
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  // JupyterLab binds arrow keys, Enter and letters outside of text fields, and looks at the focused element for this mark
  if (FOCUSABLE.includes(tag) || "tabindex" in attributes) node.setAttribute("data-lm-suppress-shortcuts", "true");
  for (const child of children.flat()) if (child !== null && child !== undefined) node.append(child); // strings become text
  return node;
}

function put(node, ...children) {
  node.replaceChildren(...children.flat().filter((child) => child !== null && child !== undefined));
}

// What has the focus. In a shadow tree (marimo) the document knows only the tree's host.
function focused(node) {
  return node.getRootNode().activeElement ?? null;
}

// Replace what is in an element. If that takes the focus away, the control of the same key gets it, or else the fallback.
function rebuild(node, fallback, ...children) {
  const active = focused(node);
  const before = node.contains(active) ? active : null;
  put(node, ...children);
  if (!before || node.contains(focused(node))) return;
  const same = node.contains(before) ? before : before.dataset.key && node.querySelector(`[data-key="${CSS.escape(before.dataset.key)}"]:not(:disabled)`);
  (same || fallback).focus({ preventScroll: true });
}

function number(value, digits = 2) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  const text = Math.abs(value).toFixed(digits);
  return (value < 0 && Number(text) !== 0 ? "−" : "") + text;
}

function short(value) {
  if (Math.abs(value) < 5e-7) return "0"; // 0 and 1 without decimals only where they are exact
  if (Math.abs(Math.abs(value) - 1) < 5e-7) return value < 0 ? "−1" : "1";
  const text = number(value);
  return text.replace(/^(−?)0\./, "$1.");
}

// At most so many characters, with an ellipsis in the middle: names of findings differ at their ends too.
function cut(text, most) {
  const letters = [...text];
  if (letters.length <= most) return text;
  return [...letters.slice(0, most >> 1), "…", ...letters.slice(letters.length - ((most - 1) >> 1))].join("");
}

function percent(value) {
  return `${Math.round(100 * value)} %`;
}

function parse(stops) {
  return stops.map((stop) => [1, 3, 5].map((i) => parseInt(stop.slice(i, i + 2), 16)));
}

// Plain keys stay in the explorer: VS Code and Notebook 6 listen at the window or the document, and there letters and
// arrows are commands (delete the cell, select the next one). Combinations, Shift+Enter and function keys go on.
function keepKey(event) {
  const { key } = event;
  const goesOn = event.ctrlKey || event.metaKey || /^(Control|Meta|Alt|Shift|F\d+)$/.test(key) || (key === "Enter" && event.shiftKey) || key === "Escape";
  if (!goesOn) event.stopPropagation();
}

// Red, green and blue of a value, from 0 to 255. stops: parsed.
function colour(value, limit, stops) {
  const at = ((Math.max(-1, Math.min(1, value / limit)) + 1) / 2) * (stops.length - 1);
  const low = Math.min(stops.length - 2, Math.floor(at));
  return stops[low].map((part, i) => Math.round(part + (stops[low + 1][i] - part) * (at - low)));
}

function luminance([r, g, b]) {
  const linear = [r, g, b].map((v) => (v / 255 <= 0.03928 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4));
  return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
}

// The one of black and white that has more contrast (at least 4.5, which text needs).
function textColour(shade) {
  return luminance(shade) > 0.179 ? "#000000" : "#ffffff";
}

// Red, green, blue and opacity, from 0 to 255, of a colour in any notation.
function bytes(colour) {
  const context = h("canvas", { width: 1, height: 1 }).getContext("2d", { willReadFrequently: true });
  context.fillStyle = colour;
  context.fillRect(0, 0, 1, 1);
  return context.getImageData(0, 0, 1, 1).data;
}

// The mark that a front end sets, or else the nearest background behind the explorer, or the system's choice.
function isDark(node) {
  const { body, documentElement } = document;
  const lab = body.dataset.jpThemeLight;
  if (lab !== undefined) return lab === "false";
  const code = body.dataset.vscodeThemeKind;
  if (code !== undefined) return code.includes("dark") || code === "vscode-high-contrast";
  if (documentElement.getAttribute("theme")) return documentElement.getAttribute("theme") === "dark"; // Colab
  for (let one = node.parentNode; one; one = one.parentNode ?? one.host) {
    if (!(one instanceof Element)) continue;
    const [red, green, blue, alpha] = bytes(getComputedStyle(one).backgroundColor);
    if (alpha > 127) return luminance([red, green, blue]) < 0.18;
  }
  return window.matchMedia("(prefers-color-scheme: dark)").matches;
}

// In pieces, because a call takes only so many arguments.
function base64(content) {
  let text = "";
  for (let i = 0; i < content.length; i += 8192) text += String.fromCharCode(...content.subarray(i, i + 8192));
  return btoa(text);
}

// -- drawing ----------------------------------------------------------------------------------------------------------

function prepareCanvas(canvas, width, height) {
  const scale = window.devicePixelRatio || 1;
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  const context = canvas.getContext("2d");
  context.setTransform(scale, 0, 0, scale, 0, 0);
  context.clearRect(0, 0, width, height);
  return context;
}

// Columns whose names have room, so many apart: the marked ones first, then the ends, then the others in order.
function namedColumns(n, marked, apart) {
  const named = new Set();
  const all = Array.from({ length: n }, (_, j) => j);
  for (const j of [...all.filter((i) => marked[i]), 0, n - 1, ...all.filter((i) => i % apart === 0), ...all]) {
    if (!all.slice(Math.max(0, j - apart + 1), j + apart).some((i) => named.has(i))) named.add(j);
  }
  return named;
}

// A grid of cells with names below and at the left. Returns where its cells are, for the pointer.
// spec: {values, rows (names, from the top), columns (names), marked, limit, numbers, width, cell: [least, most], ink...}
function drawGrid(canvas, spec, style) {
  const { rows, marked = [], limit, width } = spec;
  const columns = spec.columns.map((name) => cut(name, 30));
  const measure = canvas.getContext("2d");
  measure.font = style.font;
  const left = Math.ceil(Math.max(14, ...rows.map((name) => measure.measureText(name).width))) + 10 + (spec.rowTitle ? 16 : 0);
  const right = spec.profile ? Math.min(104, Math.max(64, width * 0.16)) : 4;
  const room = Math.max(40, width - left - right - 2);
  const cellWidth = Math.max(3, Math.min(spec.widest || 62, room / columns.length));
  const cellHeight = Math.max(9, Math.min(spec.tallest || 26, 400 / rows.length));
  measure.font = style.bold;
  const widths = columns.map((name) => measure.measureText(name).width);
  const turned = Math.max(...widths) > cellWidth - 4;
  const top = spec.profile ? 20 : 4;
  const longest = Math.min(130, Math.max(...widths));
  const below = turned ? Math.ceil(longest * 0.72) + 20 : 26;
  const height = top + rows.length * cellHeight + below + (spec.columnTitle ? 18 : 0);
  const gridWidth = cellWidth * columns.length;
  const total = Math.ceil(left + gridWidth + right);
  const context = prepareCanvas(canvas, Math.max(total, 60), Math.ceil(height));
  const at = { left, top, cellWidth, cellHeight, rows: rows.length, columns: columns.length, gridWidth, dashes: false };
  context.textBaseline = "middle";
  for (let i = 0; i < rows.length; i++) {
    for (let j = 0; j < columns.length; j++) {
      const value = spec.values(i, j);
      const x = left + j * cellWidth;
      const y = top + i * cellHeight;
      const gap = cellWidth > 8 ? 1 : 0.4;
      if (!Number.isFinite(value)) {
        context.fillStyle = style.blank;
        context.fillRect(x + gap / 2, y + gap / 2, cellWidth - gap, cellHeight - gap);
        continue;
      }
      const shade = colour(value, limit, style.stops);
      context.fillStyle = `rgb(${shade.join(",")})`;
      context.fillRect(x + gap / 2, y + gap / 2, cellWidth - gap, cellHeight - gap);
      if (spec.numbers !== false && cellWidth >= 29 && cellHeight >= 15) {
        context.font = style.small;
        context.textAlign = "center";
        context.fillStyle = textColour(shade);
        context.fillText(short(value), x + cellWidth / 2, y + cellHeight / 2 + 0.5);
      } else if (value < -0.1 * limit) { // in grey, its colour is that of the cell above 0
        const half = Math.min(4, cellWidth * 0.3);
        context.fillStyle = textColour(shade);
        context.fillRect(x + cellWidth / 2 - half, Math.round(y + cellHeight / 2 - 0.5), 2 * half, 1);
        at.dashes = true;
      }
    }
  }
  context.font = style.font;
  context.textAlign = "right";
  const step = Math.ceil(14 / cellHeight);
  rows.forEach((name, i) => {
    const fromEnd = rows.length - 1 - i;
    if (fromEnd % step && i) return;
    context.fillStyle = style.muted;
    context.fillText(name, left - 7, top + (i + 0.5) * cellHeight + 0.5);
  });
  if (spec.rowTitle) {
    context.save();
    context.translate(8, top + (rows.length * cellHeight) / 2);
    context.rotate(-Math.PI / 2);
    context.textAlign = "center";
    context.fillStyle = style.muted;
    context.fillText(spec.rowTitle, 0, 0);
    context.restore();
  }
  const foot = top + rows.length * cellHeight;
  const named = namedColumns(columns.length, marked, Math.ceil((turned ? 17 : 10) / cellWidth));
  columns.forEach((name, j) => {
    const x = left + (j + 0.5) * cellWidth;
    if (marked[j]) {
      context.fillStyle = style.accent;
      context.fillRect(left + j * cellWidth + 2, foot + 2, Math.max(1, cellWidth - 4), 3);
    }
    if (!named.has(j)) return;
    context.fillStyle = marked[j] ? style.accent : style.ink;
    context.font = marked[j] ? style.bold : style.font;
    if (!turned) {
      context.textAlign = "center";
      context.fillText(name, x, foot + 16);
      return;
    }
    context.save();
    context.translate(x + 3, foot + 11);
    context.rotate(-Math.PI / 4);
    context.textAlign = "right";
    context.fillText(name, 0, 0, 130);
    context.restore();
  });
  if (spec.columnTitle) {
    context.font = style.font;
    context.fillStyle = style.muted;
    context.textAlign = "center";
    context.fillText(spec.columnTitle, left + gridWidth / 2, height - 8);
  }
  if (spec.profile) drawProfile(context, spec.profile, at, right, style);
  if (spec.cone) drawCone(context, spec.cone, at, style);
  if (spec.selected) drawSelected(context, spec.selected, at, style);
  return at;
}

function drawProfile(context, profile, at, width, style) {
  const { value, lo, hi } = profile;
  const all = [...value, ...(lo || []), ...(hi || []), 0].filter(Number.isFinite);
  const most = Math.max(...all.map(Math.abs)) < 0.05 ? 0.05 : 0; // rounding noise must not fill the axis, nor the colours
  const low = Math.min(...all) < 0 ? Math.min(...all, -most) : 0;
  const high = Math.max(...all) > 0 || low === 0 ? Math.max(...all, most) : 0;
  const x0 = at.left + at.gridWidth + 12;
  const span = width - 32;
  const x = (v) => x0 + ((v - low) / (high - low)) * span;
  const y = (i) => at.top + (value.length - 1 - i + 0.5) * at.cellHeight;
  context.font = style.small;
  context.fillStyle = style.muted;
  context.textAlign = "center";
  const title = context.measureText(profile.name).width > width ? profile.name.split(" ")[0] : profile.name;
  context.fillText(title, x0 + span / 2, 9);
  context.strokeStyle = style.grid;
  context.lineWidth = 1;
  context.beginPath();
  context.moveTo(x(0), at.top);
  context.lineTo(x(0), at.top + value.length * at.cellHeight);
  context.stroke();
  if (lo && hi) {
    context.fillStyle = style.band;
    context.beginPath();
    for (let i = 0; i < value.length; i++) context.lineTo(x(hi[i]), y(i));
    for (let i = value.length - 1; i >= 0; i--) context.lineTo(x(lo[i]), y(i));
    context.closePath();
    context.fill();
  }
  context.strokeStyle = style.line;
  context.lineWidth = 2;
  context.beginPath();
  for (let i = 0; i < value.length; i++) if (Number.isFinite(value[i])) context.lineTo(x(value[i]), y(i));
  context.stroke();
  context.fillStyle = style.line;
  for (let i = 0; i < value.length; i++) {
    if (!Number.isFinite(value[i])) continue;
    context.beginPath();
    context.arc(x(value[i]), y(i), at.cellHeight > 12 ? 2.6 : 1.6, 0, 7);
    context.fill();
  }
  context.fillStyle = style.muted;
  const foot = at.top + value.length * at.cellHeight + 12;
  const half = context.measureText(short(low)).width / 2;
  context.fillText(short(low), Math.max(x(low), at.left + at.gridWidth + 4 + half), foot); // not into the last token's name
  context.fillText(short(high), x(high), foot);
}

// The states that a patch at the selected cell can change: later layers, and in a causal tower no token before it.
function drawCone(context, { row, column, causal }, at, style) {
  const first = causal ? column : 0;
  context.fillStyle = style.cone;
  context.fillRect(at.left + first * at.cellWidth, at.top, (at.columns - first) * at.cellWidth, row * at.cellHeight);
  context.strokeStyle = style.ink;
  context.lineWidth = 1;
  context.setLineDash([4, 3]);
  if (row > 0) {
    context.strokeRect(
      at.left + first * at.cellWidth + 0.5, at.top + 0.5,
      (at.columns - first) * at.cellWidth - 1, row * at.cellHeight - 1,
    );
  }
  context.setLineDash([]);
}

function drawSelected(context, { row, column }, at, style) {
  const x = at.left + (column === null ? 0 : column * at.cellWidth);
  const y = at.top + (row === null ? 0 : row * at.cellHeight);
  const w = column === null ? at.gridWidth : at.cellWidth;
  const t = row === null ? at.rows * at.cellHeight : at.cellHeight;
  context.lineWidth = 2;
  context.strokeStyle = style.paper;
  context.strokeRect(x - 1, y - 1, w + 2, t + 2);
  context.strokeStyle = style.accent;
  context.strokeRect(x + 0.5, y + 0.5, w - 1, t - 1);
}

// -- the page ---------------------------------------------------------------------------------------------------------

class Page {
  constructor(model, el) {
    this.model = model;
    this.id = `ts-explorer-${++serial}`;
    this.seen = {};
    this.local = { layer: null, column: null };
    this.touched = {}; // by what was entered, the request that says so: a frame from before it does not overwrite it
    this.asked = (model.get("frame") || {}).answered || 0;
    this.grids = [];
    this.hovered = null;
    this.root = h("section", { class: "ts-explorer", "aria-labelledby": `${this.id}-title`, onkeydown: keepKey });
    this.root.explorer = this;
    el.append(this.root);
    this.build();
    this.redraw = () => this.update(true);
    this.sizes = new ResizeObserver(() => {
      const width = this.root.clientWidth;
      if (width && width !== this.width) this.redraw();
    });
    this.sizes.observe(this.root);
    this.themes = new MutationObserver(this.redraw);
    const marks = ["data-jp-theme-light", "data-vscode-theme-kind", "theme", "data-theme", "class", "style"];
    for (const one of [document.body, document.documentElement]) this.themes.observe(one, { attributes: true, attributeFilter: marks });
    this.media = window.matchMedia("(prefers-color-scheme: dark)");
    this.media.addEventListener("change", this.redraw);
    this.onFrame = () => this.update(false);
    model.on("change:frame", this.onFrame);
    this.update(true);
  }

  close() {
    this.sizes.disconnect();
    this.themes.disconnect();
    this.media.removeEventListener("change", this.redraw);
    this.model.off("change:frame", this.onFrame);
    window.clearTimeout(this.waiting);
  }

  send(request, buffers = []) {
    this.asked += 1;
    this.model.send({ ...request, number: this.asked }, undefined, buffers);
    window.clearTimeout(this.waiting);
    this.waiting = window.setTimeout(() => { this.drawStatus(this.asked > this.frame.answered); }, PATIENCE);
  }

  choose(values) {
    this.send({ do: "choose", value: values });
  }

  touch(name, request = this.asked + 1) {
    this.touched[name] = request;
  }

  untouched(name) {
    return this.frame.answered >= (this.touched[name] ?? 0);
  }

  array(where) {
    if (!where) return null;
    const data = this.model.get("data");
    const from = data.byteOffset + where.at;
    return new Float32Array(data.buffer.slice(from, from + where.length));
  }

  picture(where) {
    if (!where) return null;
    const data = this.model.get("data");
    const from = data.byteOffset + where.at;
    // no blob: URL: the content policies of VS Code and other front ends allow data: in pictures
    return `data:image/png;base64,${base64(new Uint8Array(data.buffer, from, where.length))}`;
  }

  // -- built once -----------------------------------------------------------------------------------------------------

  build() {
    this.inputs = {};
    this.selects = {};
    this.checks = {};
    this.chips = {};
    this.lengths = {};
    const captions = SIDES.map((side) => {
      const id = `${this.id}-${side}`;
      this.inputs[side] = h("input", {
        id, type: "text", dir: "auto", spellcheck: "false", autocomplete: "off", "aria-describedby": `${id}-tokens`,
        oninput: (event) => { this.touch(side); this.choose({ [side]: event.target.value }); },
      });
      this.chips[side] = h("div", { class: "ts-tokens", id: `${id}-tokens`, role: "list", "aria-label": `tokens of the ${side} caption` });
      this.lengths[side] = h("span", { class: "ts-length" });
      return h("div", { class: "ts-caption" },
        h("label", { for: id }, side === "correct" ? "Correct caption" : "Foil", this.lengths[side]),
        this.inputs[side], this.chips[side]);
    });
    this.fix = h("div", { class: "ts-fix" });
    this.target = this.buildTarget();
    this.controls = h("div", { class: "ts-controls", role: "group", "aria-label": "what is traced and shown" });
    this.statusText = h("span", { class: "ts-status-text", role: "status", "aria-live": "polite" });
    this.stop = h("button", { type: "button", class: "ts-stop", onclick: () => this.send({ do: "stop" }) }, "Stop");
    this.status = h("div", { class: "ts-status" }, h("span", { class: "ts-light", "aria-hidden": "true" }), this.statusText, this.stop);
    this.maps = h("div", { class: "ts-maps" });
    this.readout = h("div", { class: "ts-readout", "aria-live": "off" });
    this.legend = h("canvas", { class: "ts-legend", role: "img", "aria-label": "colour scale" });
    this.notes = h("div", { class: "ts-notes" });
    this.ranking = h("div", { class: "ts-ranking" });
    this.scores = h("div", { class: "ts-scores" }, this.ranking, this.buildCandidate());
    this.tabs = this.buildTabs();
    put(this.root,
      h("h2", { class: "ts-hidden", id: `${this.id}-title` }, "tracescribe explorer"),
      h("div", { class: "ts-entry" }, h("div", { class: "ts-captions" }, captions, this.fix), this.target),
      this.controls, this.status,
      h("div", { class: "ts-view" },
        h("div", { class: "ts-pictures" }, this.maps, h("div", { class: "ts-under" }, this.legend, this.readout), this.notes),
        this.scores),
      this.tabs);
  }

  buildTarget() {
    const file = h("input", {
      type: "file", accept: "image/*,.dcm", class: "ts-file", tabindex: "-1", "aria-hidden": "true",
      onchange: (event) => { this.take(event.target.files); event.target.value = ""; },
    });
    this.thumbnail = h("div", { class: "ts-thumbnail" });
    this.targetKind = h("select", {
      "aria-label": "kind of target",
      onchange: (event) => { this.kind = event.target.value; this.drawTargetKind(); },
    }, [["text", "Text"], ["film", "Phantom film"], ["file", "Image path"]].map(([value, name]) => h("option", { value }, name)));
    this.targetValue = h("input", {
      type: "text", dir: "auto", spellcheck: "false", autocomplete: "off",
      oninput: () => this.touch("target", Infinity), // until it is sent
      onchange: () => this.sendTarget(),
      onkeydown: (event) => { if (event.key === "Enter") this.sendTarget(); },
    });
    this.targetLabel = h("div", { class: "ts-target-label" });
    const block = h("div", {
      class: "ts-target", role: "group", "aria-label": "target: what the captions are judged by",
      ondragover: (event) => { event.preventDefault(); block.classList.add("ts-over"); },
      ondragleave: () => block.classList.remove("ts-over"),
      ondrop: (event) => { event.preventDefault(); block.classList.remove("ts-over"); this.take(event.dataTransfer.files); },
    },
    this.thumbnail,
    h("div", { class: "ts-target-fields" },
      h("div", { class: "ts-label" }, "Target"),
      h("div", { class: "ts-line" }, this.targetKind, this.targetValue),
      this.targetLabel,
      h("div", { class: "ts-hint" },
        h("button", { type: "button", class: "ts-link", onclick: () => file.click() }, "Choose an image"), " or drop one here", file)));
    return block;
  }

  drawTargetKind() {
    this.targetKind.value = this.kind;
    const hints = { text: ["text of the target", "a sentence"], film: ["number of the film", "a number from 0 on"], file: ["path of an image", "path/of/an/image.png"] };
    this.targetValue.setAttribute("aria-label", hints[this.kind][0]);
    this.targetValue.placeholder = hints[this.kind][1];
    this.targetValue.inputMode = this.kind === "film" ? "numeric" : "text";
  }

  sendTarget() {
    const value = this.targetValue.value;
    if (value.trim() && `${this.kind} ${value}` !== this.sentTarget) {
      this.sentTarget = `${this.kind} ${value}`;
      this.touch("target");
      this.send({ do: "target", kind: this.kind, value });
    }
  }

  async take(files) {
    if (!files || !files.length) return;
    const [file] = files; // the list is emptied when the input is reset for the next choice
    if (file.size > LARGEST) {
      this.statusText.textContent = "this file is larger than 50 MB: enter its path instead";
      return;
    }
    const content = await file.arrayBuffer();
    const parts = Math.max(1, Math.ceil(content.byteLength / PART));
    for (let part = 0; part < parts; part++) {
      this.send({ do: "target", kind: "dropped", value: file.name, part, parts }, [content.slice(part * PART, (part + 1) * PART)]);
    }
  }

  buildTabs() {
    this.panels = {};
    const names = [["ask", "Ask"], ["plan", "Prescribe"], ["history", "History"], ["leave", "Copy and export"]];
    const buttons = names.map(([name, label]) =>
      h("button", {
        type: "button", role: "tab", id: `${this.id}-tab-${name}`, "aria-controls": `${this.id}-panel-${name}`,
        onclick: () => this.openTab(name),
      }, label));
    const list = h("div", {
      class: "ts-tablist", role: "tablist", "aria-label": "questions and results",
      onkeydown: (event) => {
        const here = names.findIndex(([name]) => name === this.tab);
        const goes = { ArrowRight: here + 1, ArrowLeft: here - 1, Home: 0, End: names.length - 1 };
        if (!(event.key in goes)) return;
        event.preventDefault();
        const next = (goes[event.key] + names.length) % names.length;
        this.openTab(names[next][0]);
        buttons[next].focus();
      },
    }, buttons);
    const panels = names.map(([name]) => {
      this.panels[name] = h("div", { class: "ts-panel", role: "tabpanel", id: `${this.id}-panel-${name}`, "aria-labelledby": `${this.id}-tab-${name}`, tabindex: "0" });
      return this.panels[name];
    });
    this.tabButtons = Object.fromEntries(names.map(([name], i) => [name, buttons[i]]));
    this.buildLeave();
    this.openTab("ask");
    return h("div", { class: "ts-tabs" }, list, panels);
  }

  openTab(name) {
    this.tab = name;
    for (const [other, panel] of Object.entries(this.panels)) {
      const open = other === name;
      panel.hidden = !open;
      this.tabButtons[other].setAttribute("aria-selected", String(open));
      this.tabButtons[other].tabIndex = open ? 0 : -1;
    }
    if (this.frame) this.drawTab();
  }

  buildLeave() {
    this.code = h("textarea", { class: "ts-code", readonly: true, rows: "13", spellcheck: "false", "aria-label": "code of this view" });
    this.copied = h("span", { class: "ts-copied", role: "status", "aria-live": "polite" });
    const name = h("input", { type: "text", value: "explored", id: `${this.id}-name`, spellcheck: "false", class: "ts-name" });
    const write = (suffix) => h("button", {
      type: "button", "data-suffix": suffix,
      onclick: () => this.send({ do: "export", value: name.value.replace(/\.(pdf|svg|eps|png|csv|tex|md|json)$/i, "") + suffix }),
    }, { ".json": "plan" }[suffix] || suffix.slice(1).toUpperCase());
    put(this.panels.leave,
      h("div", { class: "ts-line" },
        h("button", { type: "button", class: "ts-primary ts-copy", onclick: () => this.copy() }, "Copy as code"), this.copied),
      this.code,
      h("div", { class: "ts-line" },
        h("label", { for: `${this.id}-name` }, "Write "), name, h("span", {}, " as "),
        h("span", { class: "ts-buttons" }, [".pdf", ".svg", ".png", ".csv", ".json"].map(write))));
  }

  async copy() {
    let copied = true;
    try {
      await navigator.clipboard.writeText(this.code.value);
    } catch { // a frame without the permission, or a page that is not secure
      this.code.focus();
      this.code.select();
      copied = document.execCommand("copy");
    }
    this.copied.textContent = copied ? "copied" : "the code is selected: copy it with Ctrl+C or ⌘C";
    if (copied) window.setTimeout(() => { this.copied.textContent = ""; }, 2000);
  }

  // -- every frame ----------------------------------------------------------------------------------------------------

  update(everything) {
    const frame = this.model.get("frame");
    if (!frame || !frame.settings) return;
    this.frame = frame;
    this.asked = Math.max(this.asked, frame.answered); // another view of the same explorer asks too
    this.width = this.root.clientWidth;
    this.root.dataset.theme = isDark(this.root) ? "dark" : "light";
    this.root.classList.toggle("ts-narrow", this.width < 760);
    if (everything) this.seen = {};
    this.style = this.readStyle();
    this.drawCaptions();
    this.drawTarget();
    this.drawControls();
    this.drawStatus();
    if (this.untouched("cell")) this.local = { layer: frame.settings.layer, column: frame.settings.column };
    this.drawMaps();
    this.drawScores();
    this.drawTab();
  }

  // Rebuild a part only if what it shows has changed, so that nothing loses the focus.
  once(name, value, draw) {
    const key = JSON.stringify(value);
    if (this.seen[name] === key) return;
    this.seen[name] = key;
    draw();
  }

  readStyle() {
    const values = getComputedStyle(this.root);
    const get = (name) => values.getPropertyValue(`--ts-${name}`).trim();
    const family = values.fontFamily;
    return {
      ink: get("ink"), muted: get("muted"), accent: get("accent"), grid: get("grid"), paper: get("paper"), blank: get("blank"),
      band: get("band"), line: get("line"), cone: get("cone"),
      font: `12px ${family}`, bold: `600 12px ${family}`, small: `11px ${family}`,
      stops: parse(this.root.dataset.theme === "dark" ? DARK : this.model.get("palette")),
    };
  }

  drawCaptions() {
    const { captions } = this.frame;
    for (const side of SIDES) {
      const input = this.inputs[side];
      if (this.untouched(side) && input.value !== captions[side].text) input.value = captions[side].text;
      const count = captions[side].tokens.length;
      this.lengths[side].textContent = count ? ` ${count} tokens` : "";
      this.once(`tokens ${side}`, captions[side], () => put(this.chips[side],
        captions[side].tokens.map((token, i) => h("span", {
          role: "listitem", dir: "auto", class: captions[side].differs[i] ? "ts-token ts-differs" : "ts-token",
          "aria-label": captions[side].differs[i] ? `${token}, differs` : undefined,
        }, token))));
      input.setAttribute("aria-invalid", String(Boolean(captions.problem)));
    }
    this.once("fix", [captions.fix, captions.notes, captions.aligned], () => rebuild(this.fix, this.inputs[this.fixed || "foil"],
      captions.fix && h("button", { type: "button", onclick: () => { this.touched = {}; this.fixed = captions.fix.side; this.send({ do: "fix" }); } },
        "Use “", h("bdi", {}, captions.fix.caption), "”", ` as the ${captions.fix.side === "foil" ? "foil" : "correct caption"}`),
      captions.aligned && !captions.problem ? h("span", { class: "ts-tag" }, "aligned: different lengths") : null,
      captions.notes.map((note) => h("div", { class: "ts-note" }, note))));
  }

  drawTarget() {
    const { target } = this.frame;
    this.once("target", target, () => {
      const url = this.picture(target.picture);
      put(this.thumbnail, url ? h("img", { src: url, alt: target.label }) : h("span", { class: "ts-quote", "aria-hidden": "true" }, "“ ”"));
      this.targetLabel.textContent = target.kind === "text" ? "" : target.label;
      if (this.untouched("target")) {
        this.kind = ["text", "film", "file"].includes(target.kind) ? target.kind : this.kind || "text";
        this.targetValue.value = target.value;
        this.sentTarget = `${this.kind} ${target.value}`;
        this.drawTargetKind();
      }
    });
  }

  // A labelled select; a second call with the same name changes its options and its choice, and keeps it in place.
  select(name, label, values, chosen, onchange) {
    const made = this.selects[name] ??= this.buildSelect(name, label, onchange);
    this.once(`options of ${name}`, values, () => put(made.select, values.map(([value, text]) => h("option", { value }, text))));
    if (made.select.value !== chosen) made.select.value = chosen;
    return made.node;
  }

  buildSelect(name, label, onchange) {
    const id = `${this.id}-${name}`;
    const select = h("select", { id, "data-name": name, onchange: (event) => onchange(event.target.value) });
    return { select, node: h("div", { class: "ts-field" }, h("label", { for: id }, label), select) };
  }

  setting(name, label) {
    const { settings } = this.frame;
    return this.select(name, label, settings.choices[name].map((value) => [value, NAMES[value] || value]), settings[name],
      (value) => this.choose({ [name]: value }));
  }

  check(name, label) {
    const made = this.checks[name] ??= h("input", {
      type: "checkbox", "data-name": name, onchange: (event) => this.choose({ [name]: event.target.checked }),
    });
    made.checked = this.frame.settings[name];
    return made.parentElement ?? h("label", { class: "ts-check" }, made, label);
  }

  drawControls() {
    const { settings, compare, presets, preset } = this.frame;
    const fields = [];
    if (presets.length) {
      fields.push(this.select("preset", "Preset", [["", "choose a pair …"], ...presets.map((text, i) => [String(i), text])], preset === null || preset >= presets.length ? "" : String(preset),
        (value) => { if (value !== "") { this.touched = {}; this.send({ do: "preset", value: Number(value) }); } }));
      fields.push(this.setting("scope", "Show"));
    }
    if (compare.options.length > 1) {
      fields.push(this.select("compare", "Compare with", compare.options.map(({ value, name }) => [value, name]), compare.chosen,
        (value) => this.choose({ compare: value })));
    }
    fields.push(this.setting("direction", "Direction"), this.setting("site", "Site"), this.setting("metric", "Score"));
    const switches = [this.check("align", "align lengths")];
    if (settings.n_control) switches.push(this.check("subtract", "subtract control"));
    this.once("controls", [fields.length, switches.length], () =>
      rebuild(this.controls, this.inputs.correct, fields, h("div", { class: "ts-switches" }, switches)));
  }

  // late: a request has had no answer for a while. A kernel answers between cells, and one that is gone never does.
  drawStatus(late = false) {
    const { status, settings } = this.frame;
    this.status.dataset.kind = late ? "problem" : status.kind;
    const ready = status.kind === "ready" ? `${status.text} · ${settings.model}` : status.text;
    const text = late ? "no answer from the kernel: it runs another cell, or it is gone (then run the cell again)" : ready;
    if (this.statusText.textContent !== text) this.statusText.textContent = text;
    if (!status.busy && focused(this.root) === this.stop) this.grids[0]?.box.focus({ preventScroll: true });
    this.stop.hidden = !status.busy;
    this.root.setAttribute("aria-busy", String(status.busy));
  }

  // -- maps -----------------------------------------------------------------------------------------------------------

  drawMaps() {
    const { maps } = this.frame;
    const several = maps.panels.length > 1;
    this.once("panels", [maps.panels.map((panel) => panel.name), this.width], () => {
      this.grids = maps.panels.map((panel, number) => this.buildGrid(number));
      put(this.maps, this.grids.map((grid) => grid.node));
    });
    const room = this.maps.clientWidth || this.width;
    const beside = several && room >= 900 ? maps.panels.length : 1;
    const width = Math.floor((room - 16 * (beside - 1)) / beside);
    maps.panels.forEach((panel, number) => {
      const grid = this.grids[number];
      const [rows, columns] = panel.cells.shape;
      const cells = this.array(panel.cells);
      const profile = panel.profile && {
        value: this.array(panel.profile.value), lo: this.array(panel.profile.lo), hi: this.array(panel.profile.hi), name: panel.profile.name,
      };
      grid.panel = { ...panel, cells, names: this.columnNames(panel) };
      put(grid.heading, panel.name, panel.about ? h("span", { class: "ts-muted" }, ` ${panel.about}`) : null);
      grid.heading.hidden = !several;
      const { layer, column } = this.local;
      const within = (layer === null || layer < rows) && (column === null || column < columns);
      const chosen = within && (layer !== null || column !== null);
      const row = layer === null ? null : rows - 1 - layer;
      grid.at = drawGrid(grid.canvas, {
        values: (i, j) => cells[(rows - 1 - i) * columns + j],
        rows: panel.layers.map(String).reverse(), columns: grid.panel.names, marked: panel.marked, limit: maps.limit, width,
        profile, rowTitle: "layer",
        selected: chosen ? { row, column } : null,
        cone: chosen && layer !== null && column !== null && !maps.by_role ? { row, column, causal: panel.causal } : null,
      }, this.style);
      grid.box.setAttribute("aria-rowcount", rows);
      grid.box.setAttribute("aria-colcount", columns);
      grid.box.setAttribute("aria-label", `${several ? `${`${panel.name} ${panel.about}`.trim()}: ` : ""}${panel.quantity} by layer and ${maps.by_role ? "role" : "token"}; arrow keys move the selected cell, from the first cells on to a whole ${maps.by_role ? "role" : "token"} or layer, Escape clears it`);
      this.describe(grid);
    });
    this.drawLegend(maps);
    this.say();
    this.once("notes", maps.notes, () => put(this.notes, maps.notes.join(" · ")));
  }

  columnNames(panel) {
    return panel.columns.map((name, i) => (panel.foils[i] ? `${name} / ${panel.foils[i]}` : name));
  }

  buildGrid(number) {
    // Two cells that take turns: screen readers speak of another active cell, not of another text in the same one.
    const cells = [0, 1].map((turn) => h("div", { role: "gridcell", id: `${this.id}-cell-${number}-${turn}` }));
    const row = h("div", { role: "row", class: "ts-hidden" }, cells);
    const canvas = h("canvas", { "aria-hidden": "true" });
    const heading = h("div", { class: "ts-map-name" });
    const node = h("div", {
      class: "ts-map", role: "grid", tabindex: "0", "aria-readonly": "true",
      onkeydown: (event) => this.move(event, number),
    }, canvas, row);
    canvas.addEventListener("pointerdown", (event) => this.press(event, number));
    canvas.addEventListener("pointermove", (event) => { this.hovered = this.find(event, number); this.say(); });
    canvas.addEventListener("pointerleave", () => { this.hovered = null; this.say(); });
    return { node: h("div", { class: "ts-map-block" }, heading, node), box: node, canvas, row, cells, heading, at: null, panel: null };
  }

  find(event, number) {
    const { at, canvas, panel } = this.grids[number];
    if (!at) return null;
    const box = canvas.getBoundingClientRect();
    const column = Math.floor((event.clientX - box.left - at.left) / at.cellWidth);
    const row = Math.floor((event.clientY - box.top - at.top) / at.cellHeight);
    const inRow = row >= 0 && row < at.rows;
    const inColumn = column >= 0 && column < at.columns;
    if (!inRow && !inColumn) return null;
    if (!inRow && row < 0) return null; // the profile's title
    if (!inColumn && column >= at.columns && !inRow) return null;
    return { number, layer: inRow ? panel.layers.length - 1 - row : null, column: inColumn ? column : null };
  }

  press(event, number) {
    const found = this.find(event, number);
    if (!found) return;
    this.grids[number].box.focus({ preventScroll: true });
    const same = found.layer === this.local.layer && found.column === this.local.column;
    this.pick(same ? { layer: null, column: null } : { layer: found.layer, column: found.column });
  }

  pick(cell) {
    this.local = cell;
    this.touch("cell");
    this.choose(cell);
    this.drawMaps();
    if (this.tab !== "ask" && (cell.layer !== null || cell.column !== null)) this.openTab("ask");
  }

  move(event, number) {
    const { panel } = this.grids[number];
    const [rows, columns] = [panel.layers.length, panel.columns.length];
    const { layer, column } = this.local;
    const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [1, 0], ArrowDown: [-1, 0] };
    if (event.key === "Escape" && (layer !== null || column !== null)) {
      event.preventDefault();
      event.stopPropagation();
      this.pick({ layer: null, column: null });
      return;
    }
    const ends = { Home: 0, End: columns - 1 };
    if (!(event.key in steps) && !(event.key in ends)) return;
    event.preventDefault();
    event.stopPropagation();
    if (layer === null && column === null) this.pick({ layer: 0, column: 0 });
    else if (event.key in ends) this.pick({ layer: layer ?? 0, column: ends[event.key] });
    else {
      // the layers' names stand left of the first column, the tokens' below layer 0: one step further selects these
      const [up, right] = steps[event.key];
      const to = {
        layer: Math.min(rows - 1, (layer ?? -1) + up),
        column: Math.min(columns - 1, (column ?? -1) + right),
      };
      if (to.layer < 0 && to.column < 0) return; // the corner
      this.pick({ layer: to.layer < 0 ? null : to.layer, column: to.column < 0 ? null : to.column });
    }
  }

  sentence(grid, layer, column) {
    const { panel } = grid;
    const value = layer !== null && column !== null ? panel.cells[layer * panel.columns.length + column] : null;
    const parts = [];
    if (layer !== null) parts.push(`layer ${panel.layers[layer]}`);
    if (column !== null) parts.push(panel.names[column]);
    if (layer !== null && column !== null) parts.push(`${panel.quantity} ${number(value, 3)}`);
    return parts.join(" · ");
  }

  describe(grid) {
    const { layer, column } = this.local;
    const inside = (layer === null || layer < grid.panel.layers.length) && (column === null || column < grid.panel.columns.length);
    const chosen = inside && (layer !== null || column !== null);
    grid.row.setAttribute("aria-rowindex", String(chosen && layer !== null ? grid.panel.layers.length - layer : 1));
    const sentence = chosen ? this.sentence(grid, layer, column) : "no cell is selected";
    if (grid.cells[0].textContent === sentence) return;
    grid.cells.reverse();
    const [cell, other] = grid.cells;
    cell.textContent = sentence;
    cell.setAttribute("aria-colindex", String(chosen && column !== null ? column + 1 : 1));
    cell.setAttribute("aria-selected", String(chosen));
    cell.hidden = false;
    other.hidden = true;
    grid.box.setAttribute("aria-activedescendant", cell.id);
  }

  say() {
    const at = this.hovered || { number: this.grids.length - 1, ...this.local };
    const grid = this.grids[at.number];
    if (!grid || !grid.panel || (at.layer === null && at.column === null) || (at.layer ?? 0) >= grid.panel.layers.length || (at.column ?? 0) >= grid.panel.columns.length) {
      this.readout.textContent = this.frame.maps.panels.length ? "Click a cell, a layer or a token" : "";
      return;
    }
    this.readout.textContent = this.sentence(grid, at.layer, at.column);
  }

  drawLegend(maps) {
    this.legend.hidden = !maps.panels.length;
    const [width, height] = [190, 30];
    const context = prepareCanvas(this.legend, width, height);
    const { limit } = maps;
    for (let x = 0; x < width - 30; x++) {
      context.fillStyle = `rgb(${colour((x / (width - 31)) * 2 - 1, 1, this.style.stops).join(",")})`;
      context.fillRect(15 + x, 4, 1.5, 9);
    }
    if (this.grids.some(({ at }) => at?.dashes)) {
      context.fillStyle = textColour(colour(-0.5, 1, this.style.stops));
      context.fillRect(width / 4 + 3, 8, 8, 1);
    }
    context.font = this.style.small;
    context.fillStyle = this.style.muted;
    context.textBaseline = "middle";
    context.textAlign = "center";
    [[-1, 15], [0, width / 2], [1, width - 15]].forEach(([share, x]) => context.fillText(short(share * limit), x, 22));
    const quantity = maps.panels.length ? maps.panels[0].quantity : "CTE";
    this.legend.setAttribute("aria-label", `colours: ${quantity} from ${number(-limit)} (blue) over 0 to ${number(limit)} (red)`);
  }

  // -- scores and answers ---------------------------------------------------------------------------------------------

  drawScores() {
    const { scores, settings } = this.frame;
    this.root.classList.toggle("ts-pooled", settings.scope === "data");
    this.once("scores", [scores, this.width], () => {
      const all = scores.flatMap(({ rows }) => rows.flatMap((row) => [row.score, row.with]));
      const ends = [Math.min(0, ...all), Math.max(...all, 1e-6)];
      rebuild(this.ranking, this.candidate,
        h("h3", {}, scores.length ? "Which caption wins" : "Scores"),
        scores.length ? h("div", { class: "ts-rankings" }, scores.map((ranking) => this.drawRanking(ranking, ends)))
          : h("p", { class: "ts-empty" }, "Scores appear with the trace."));
    });
  }

  // ends: of the bars' common scale
  drawRanking({ name, about, rows, winner, margin, entered }, [low, high]) {
    const bar = (value, kind) => h("span", { class: `ts-bar ${kind}`, style: `width:${Math.max(1, (100 * (value - low)) / (high - low))}%` });
    const patched = rows.some((row) => row.patched);
    const wins = { correct: "The correct caption", foil: "The foil" }[winner] ?? "Another caption";
    return h("div", { class: "ts-ranking-of" },
      name ? h("div", { class: "ts-map-name" }, name, h("span", { class: "ts-muted" }, ` ${about}`)) : null,
      h("p", { class: winner === "correct" ? "ts-verdict" : "ts-verdict ts-wrong" }, `${wins} scores highest (S_corr − S_foil = ${number(margin, 3)})`),
      h("table", {},
        h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "#"), h("th", { scope: "col" }, "caption"), h("th", { scope: "col" }, patched ? "without → with" : "score"))),
        h("tbody", {}, rows.map((row) => h("tr", { class: row.patched ? "ts-patched" : null },
          h("td", {}, row.rank === row.rank_with ? String(row.rank) : `${row.rank} → ${row.rank_with}`),
          h("td", {}, h("bdi", {}, row.caption), row.role ? h("span", { class: `ts-tag ts-${row.role}` }, row.role) : entered ? this.dropButton(row.caption) : null,
            h("div", { class: "ts-bars" }, bar(row.score, "ts-before"), row.patched ? bar(row.with, "ts-after") : null)),
          h("td", { class: "ts-number" }, row.patched ? `${number(row.score, 3)} → ${number(row.with, 3)}` : number(row.score, 3)))))));
  }

  dropButton(caption) {
    return h("button", {
      type: "button", class: "ts-drop", title: "rank it no more", "aria-label": `rank “${caption}” no more`,
      onclick: () => this.send({ do: "no candidate", value: caption }),
    }, "×");
  }

  buildCandidate() {
    const input = this.candidate = h("input", {
      type: "text", dir: "auto", placeholder: "another caption to rank", "aria-label": "another caption to rank", spellcheck: "false",
      onkeydown: (event) => { if (event.key === "Enter") add(); },
    });
    const add = () => {
      if (input.value.trim()) this.send({ do: "candidate", value: input.value });
      input.value = "";
    };
    return h("div", { class: "ts-line ts-add" }, input, h("button", { type: "button", onclick: add }, "Add"));
  }

  drawTab() {
    const { frame } = this;
    if (this.tab === "ask") this.once("ask", [frame.ask, frame.settings.n_pairs, this.width], () => this.drawAsk());
    if (this.tab === "plan") this.once("plan", [frame.plan, frame.settings.beta, frame.settings.aggregate, frame.settings.layers, frame.settings.normalize, this.width], () => this.drawPlan());
    if (this.tab === "history") this.once("history", frame.history, () => this.drawHistory());
    if (this.code.value !== frame.code) {
      this.code.value = frame.code;
      this.code.rows = Math.max(13, Math.min(26, frame.code.split("\n").length));
    }
  }

  drawAsk() {
    const { ask, settings, maps } = this.frame;
    const panel = this.panels.ask;
    if (!ask) {
      rebuild(panel, panel, h("p", { class: "ts-empty" }, "Select a cell to see what its patch does to the scores, which heads carry it, what its token attends to, and where it is strongest in a data set. Select a layer or a token for its row or column: by a click on its name, or from the first cell by one arrow key further."));
      return;
    }
    const button = (request, label, shown) => shown && h("button", { type: "button", "data-ask": request, "data-key": request, onclick: () => this.send({ do: request }) }, label);
    const actions = [
      button("heads", "Split by head", ask.can_split && !ask.heads),
      button("attention", "Attention at this token", ask.can_attend && !ask.attention),
      button("data", `Strongest and weakest of ${settings.n_pairs} pairs`, ask.data && !ask.data.traced),
    ].filter(Boolean);
    const facts = ask.cells.map(({ name, value }) => h("span", { class: "ts-fact" }, ask.cells.length > 1 ? `${name}: ` : `${ask.quantity} `, h("b", {}, number(value, 3))));
    rebuild(panel, panel,
      h("div", { class: "ts-line ts-ask-head" }, h("h3", {}, ask.title), facts,
        settings.layer === null || settings.column === null ? h("span", { class: "ts-muted" }, settings.layer === null ? "summed over layers" : "summed over tokens") : null,
        h("span", { class: "ts-buttons" }, actions)),
      ask.lines.length ? this.drawLines(ask) : null,
      h("div", { class: "ts-answers" }, this.drawHeads(ask), this.drawAttention(ask)),
      h("div", { class: "ts-answers" }, this.drawExtremes(ask.data)));
    if (!maps.finished) panel.append(h("p", { class: "ts-empty" }, "The trace is not finished."));
  }

  drawLines(ask) {
    const most = Math.max(1e-6, ...ask.lines.map(({ value }) => Math.abs(value ?? 0)));
    return h("table", { class: "ts-lines" }, h("tbody", {}, ask.lines.map(({ name, value }) => h("tr", {},
      h("th", { scope: "row" }, name),
      h("td", {}, h("span", { class: value < 0 ? "ts-bar ts-negative" : "ts-bar ts-positive", style: `width:${(100 * Math.abs(value ?? 0)) / most}%` })),
      h("td", { class: "ts-number" }, number(value, 3))))));
  }

  smallGrid(title, spec, label) {
    const canvas = h("canvas", { role: "img", "aria-label": label });
    const line = (i) => h("tr", {}, h("th", { scope: "row" }, spec.rows[i]), spec.columns.map((_, j) => h("td", {}, number(spec.values(i, j)))));
    const table = h("table", {},
      h("thead", {}, h("tr", {}, h("td", {}), spec.columns.map((name) => h("th", { scope: "col" }, name)))),
      h("tbody", {}, spec.rows.map((_, i) => line(i))));
    const block = h("figure", { class: "ts-small" }, h("figcaption", {}, title), canvas, h("div", { class: "ts-hidden" }, table));
    drawGrid(canvas, { numbers: false, tallest: 18, ...spec }, this.style);
    return block;
  }

  drawHeads(ask) {
    if (!ask.heads) return null;
    const [layers, heads] = ask.heads.shape;
    const cells = this.array(ask.heads);
    const limit = Math.max(0.05, ...Array.from(cells, Math.abs).filter(Number.isFinite));
    let best = 0;
    cells.forEach((value, i) => { if (value > cells[best]) best = i; });
    const where = `layer ${Math.floor(best / heads) + 1}, head ${best % heads}: ${number(cells[best], 2)}`;
    return this.smallGrid(`By head (output z) at “${ask.token}”; strongest: ${where}`, {
      values: (i, j) => cells[(layers - 1 - i) * heads + j], rows: Array.from({ length: layers }, (_, i) => String(layers - i)),
      columns: Array.from({ length: heads }, (_, j) => String(j)), limit, width: Math.min(440, 40 + 34 * heads), numbers: true, rowTitle: "layer", columnTitle: "head",
    }, `CTE by layer and head; strongest ${where}`);
  }

  drawAttention(ask) {
    if (!ask.attention) return null;
    return h("div", { class: "ts-stack" }, ask.attention.map(({ cells: where, keys }, number_) => {
      const [heads, n] = where.shape;
      const cells = this.array(where);
      return this.smallGrid(`Attention from “${ask.from[number_]}”, ${SIDES[number_]} caption`, {
        values: (i, j) => cells[i * n + j], rows: Array.from({ length: heads }, (_, i) => `head ${i}`), columns: keys, limit: 1,
        width: Math.min(460, 70 + 44 * n), numbers: true,
      }, `attention of each head to each token of the ${SIDES[number_]} caption`);
    }));
  }

  drawExtremes(data) {
    if (!data || !data.traced) return null;
    if (data.problem) return h("p", { class: "ts-empty" }, data.problem);
    const list = (title, pairs) => h("div", { class: "ts-extremes" }, h("h4", {}, title), h("ul", {}, pairs.map((pair) => {
      const url = this.picture(pair.picture);
      return h("li", {}, h("button", { type: "button", title: "explore this pair", "data-key": `pair ${pair.number}`, onclick: () => { this.touched = {}; this.send({ do: "preset", value: pair.number }); } },
        url ? h("img", { src: url, alt: "" }) : null,
        h("span", { class: "ts-pair" }, h("b", {}, number(pair.value, 2)), ` ${pair.id}`, h("br"), h("bdi", {}, pair.correct), h("br"), h("bdi", { class: "ts-muted" }, pair.foil))));
    })));
    return [list(`Strongest at ${data.role}`, data.strongest), list(`Weakest at ${data.role}`, data.weakest)];
  }

  // -- prescribing and history ----------------------------------------------------------------------------------------

  drawPlan() {
    const { plan, settings } = this.frame;
    const panel = this.panels.plan;
    if (!this.beta) {
      this.betaValue = h("output", { class: "ts-number" });
      this.beta = h("input", {
        type: "range", min: "0", max: "4", step: "0.05", id: `${this.id}-beta`, "data-name": "beta",
        oninput: (event) => { this.touch("beta"); this.betaValue.textContent = number(Number(event.target.value)); this.choose({ beta: Number(event.target.value) }); },
      });
      this.planChoices = h("div", { class: "ts-choices" });
      this.planBody = h("div", { class: "ts-plan" });
      put(panel,
        h("div", { class: "ts-controls" }, this.planChoices, h("div", { class: "ts-field" }, h("label", { for: this.beta.id }, "beta ", this.betaValue), this.beta)),
        this.planBody);
    }
    const choices = [this.setting("aggregate", "Tokens of a layer"), this.setting("layers", "Blocks"), this.setting("normalize", "Normalise")];
    this.once("plan choices", choices.length, () => put(this.planChoices, choices));
    if (this.untouched("beta")) {
      this.beta.value = String(settings.beta);
      this.betaValue.textContent = number(settings.beta);
    }
    put(this.planBody, this.planAnswer(plan));
  }

  planAnswer(plan) {
    if (!plan) return [h("p", { class: "ts-empty" }, "Weights appear with the trace.")];
    if (plan.problem) return [h("p", { class: "ts-empty" }, plan.problem)];
    const canvas = h("canvas", { role: "img" });
    this.drawBars(canvas, plan);
    const shares = plan.top.map(({ k, share, uniform }) => h("li", {}, `the ${k} blocks of highest CTE: `, h("b", {}, percent(share)), ` (${percent(uniform)} if all are trained alike)`));
    return [
      h("figure", { class: "ts-small" }, h("figcaption", {},
        h("span", { class: "ts-key ts-key-alpha" }), "alpha", plan.lo ? " with its interval" : "", h("span", { class: "ts-key ts-key-multiplier" }), "multiplier alpha^beta"), canvas),
      h("div", { class: "ts-words" },
        shares.length ? h("h4", {}, "Share of the update, if all blocks would change alike without weights") : null,
        h("ul", {}, shares),
        plan.warnings.length ? h("h4", {}, "Before you use these weights") : null,
        h("ul", { class: "ts-warnings" }, plan.warnings.map((line) => h("li", {}, line)))),
    ];
  }

  drawBars(canvas, plan) {
    const [alpha, multipliers, lo, hi, shares] = ["alpha", "multipliers", "lo", "hi", "shares"].map((name) => this.array(plan[name]));
    const n = alpha.length;
    const width = Math.max(220, Math.min(560, (this.root.clientWidth || 700) - 60, 60 + n * 46));
    const [left, right, top, bottom] = [34, 6, 10, 44];
    const height = 210;
    const context = prepareCanvas(canvas, width, height);
    const most = Math.max(1, ...alpha, ...multipliers, ...(hi || []));
    const step = (width - left - right) / n;
    const y = (v) => height - bottom - (Math.max(0, v) / most) * (height - top - bottom);
    const { style } = this;
    context.font = style.small;
    context.textBaseline = "middle";
    for (const tick of [0, 0.5, 1].map((share) => share * most)) {
      context.strokeStyle = style.grid;
      context.beginPath();
      context.moveTo(left, y(tick) + 0.5);
      context.lineTo(width - right, y(tick) + 0.5);
      context.stroke();
      context.fillStyle = style.muted;
      context.textAlign = "right";
      context.fillText(number(tick, 1), left - 6, y(tick));
    }
    for (let i = 0; i < n; i++) {
      const x = left + i * step + step * 0.16;
      const w = step * 0.68;
      context.fillStyle = style.band;
      context.fillRect(x, y(alpha[i]), w, y(0) - y(alpha[i]));
      context.fillStyle = style.line;
      context.fillRect(x + w * 0.25, y(multipliers[i]), w * 0.5, y(0) - y(multipliers[i]));
      if (lo && hi) {
        context.strokeStyle = style.ink;
        context.lineWidth = 1.2;
        const middle = x + w / 2;
        context.beginPath();
        context.moveTo(middle, y(lo[i]));
        context.lineTo(middle, y(hi[i]));
        for (const end of [lo[i], hi[i]]) { context.moveTo(middle - 4, y(end)); context.lineTo(middle + 4, y(end)); }
        context.stroke();
      }
      context.textAlign = "center";
      context.fillStyle = style.ink;
      context.fillText(String(i + 1), x + w / 2, height - 33);
      context.fillStyle = style.muted;
      if (step >= 26) context.fillText(percent(shares[i]), x + w / 2, height - 19);
    }
    context.fillStyle = style.muted;
    context.textAlign = "center";
    context.fillText(step >= 26 ? "block, and its share of the update" : "block", left + (width - left - right) / 2, height - 5);
    canvas.setAttribute("aria-label", `weights by block: ${Array.from(alpha, (value, i) => `block ${i + 1} alpha ${number(value)}, multiplier ${number(multipliers[i])}`).join("; ")}`);
  }

  drawHistory() {
    const { history } = this.frame;
    if (!history.length) {
      put(this.panels.history, h("p", { class: "ts-empty" }, "Every finished trace is kept here and can be restored, or compared with (above)."));
      return;
    }
    rebuild(this.panels.history, this.panels.history, h("ol", { class: "ts-history" }, history.map((one) => h("li", { "aria-current": one.current ? "true" : null },
      h("button", { type: "button", "data-restore": one.number, "data-key": `restore ${one.number}`, disabled: one.current, onclick: () => { this.touched = {}; this.send({ do: "restore", value: one.number }); } }, one.current ? "shown" : "Restore"),
      h("span", { class: "ts-number" }, String(one.number)),
      h("span", {}, one.name, h("br"), h("span", { class: "ts-muted" }, one.about))))));
  }
}

export default {
  render({ model, el }) {
    const page = new Page(model, el);
    return () => page.close();
  },
};
