"use strict";
// Everything from a run is put into the page as text; nothing is ever read as HTML.
const DATA = JSON.parse(document.getElementById("data").textContent);
const SVG = "http://www.w3.org/2000/svg";
const byId = (id) => document.getElementById(id);

function element(parent, name, attributes = {}, text = null) {
  const made = parent.namespaceURI === SVG || name === "svg"
    ? document.createElementNS(SVG, name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== null) made.textContent = text;
  parent.append(made);
  return made;
}

const short = (value) => String(Number(value.toPrecision(4)));

// ---- the table ----------------------------------------------------------------------------

function sortable(table) {
  const headings = [...table.tHead.rows].at(-1).cells;
  const original = new Map();
  for (const body of table.tBodies) original.set(body, [...body.rows]);
  [...headings].forEach((heading, column) => {
    const cells = [...original.values()].flat().map((row) => row.cells[column]);
    const numeric = cells.some((cell) => cell && "value" in cell.dataset);
    heading.classList.toggle("number", numeric);
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = heading.textContent || "Row";
    heading.replaceChildren(button);
    button.addEventListener("click", () => {
      const first = numeric ? "descending" : "ascending";
      const second = numeric ? "ascending" : "descending";
      const now = heading.getAttribute("aria-sort");
      const next = now === null ? first : now === first ? second : null;
      for (const other of headings) other.removeAttribute("aria-sort");
      if (next) heading.setAttribute("aria-sort", next);
      for (const [body, rows] of original) body.append(...sorted(rows, column, numeric, next));
    });
  });
}

const BLANK = ["", "–", "any"]; // what stands where a setting does not apply
const isNumber = (text) => text.trim() !== "" && Number.isFinite(Number(text));

function sorted(rows, column, numeric, order) {
  if (!order) return rows;
  const sign = order === "ascending" ? 1 : -1;
  const texts = rows.map((row) => row.cells[column]?.textContent ?? "");
  const counted = texts.some(isNumber) && texts.every((text) => isNumber(text) || BLANK.includes(text));
  const fixed = rows.filter((row) => row.cells.length === 1 && row.cells[0].scope === "rowgroup");
  const key = (row) => {
    const cell = row.cells[column];
    if (!numeric && counted) return isNumber(cell.textContent) ? Number(cell.textContent) : null;
    if (!numeric) return cell.textContent;
    return cell.dataset.value ? Number(cell.dataset.value) : null;
  };
  const compare = (a, b) => {
    const [left, right] = [key(a), key(b)];
    if (left === null || right === null) return (left === null) - (right === null);
    return sign * (typeof left === "number" ? left - right : left.localeCompare(right, undefined, { numeric: true }));
  };
  return [...fixed, ...rows.filter((row) => !fixed.includes(row)).sort(compare)];
}

async function copyLatex() {
  const said = byId("copied");
  try {
    await navigator.clipboard.writeText(DATA.latex);
  } catch {
    const source = byId("latex");
    source.parentElement.open = true;
    const range = document.createRange();
    range.selectNodeContents(source);
    getSelection().removeAllRanges();
    getSelection().addRange(range);
    if (!document.execCommand("copy")) {
      said.textContent = "Selected below: copy it with your keyboard.";
      return;
    }
  }
  said.textContent = "Copied.";
}

// ---- charts -------------------------------------------------------------------------------

const visible = new Set();
const kind = (line) => `s${line % 8} d${Math.floor(line / 8) % 3}`;

function ticks(low, high, count) {
  const span = high - low || 1;
  const rough = span / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= rough);
  const found = [];
  for (let n = Math.ceil(low / step - 1e-9); n * step <= high + step * 1e-6; n++) found.push(n * step);
  return found;
}

function extent(values) {
  let [low, high] = [Infinity, -Infinity];
  for (const value of values) { low = Math.min(low, value); high = Math.max(high, value); }
  if (low === high) { const pad = Math.abs(low) * 0.1 || 0.5; return [low - pad, high + pad]; }
  return [low, high];
}

function drawn(place) {
  const chart = DATA.charts[place.dataset.chart];
  const width = Math.max(240, Math.floor(place.clientWidth));
  const series = chart.series.filter((each) => visible.has(each.line));
  place.replaceChildren();
  if (!place.clientWidth) return;
  if (!series.length) { element(place, "p", { class: "quiet" }, "No row with values is chosen."); return; }
  (chart.kind === "dots" ? dots : lines)(place, chart, series, width);
}

function lines(place, chart, series, width) {
  const height = 250, left = 52, right = 10, top = 10, bottom = 44;
  const picture = element(place, "svg", {
    viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-label": described(chart, series),
  });
  const across = chart.log_x ? Math.log10 : (x) => x;
  const [x0, x1] = extent(series.flatMap((s) => s.x.map(across)));
  let [y0, y1] = extent(series.flatMap((s) => [...s.low, ...s.high]));
  const pad = (y1 - y0) * 0.04; y0 -= pad; y1 += pad;
  const X = (x) => left + (across(x) - x0) / (x1 - x0) * (width - left - right);
  const Y = (y) => height - bottom - (y - y0) / (y1 - y0) * (height - top - bottom);
  for (const y of ticks(y0, y1, 5)) {
    element(picture, "line", { class: "grid", x1: left, x2: width - right, y1: Y(y), y2: Y(y) });
    element(picture, "text", { x: left - 6, y: Y(y) + 4, "text-anchor": "end" }, short(y));
  }
  const places = [...new Set(series.flatMap((s) => s.x))].sort((a, b) => a - b);
  let last = -Infinity;
  for (const x of places.length <= 10 ? places : ticks(x0, x1, 6)) {
    if (X(x) - last < 34) continue;
    last = X(x);
    element(picture, "text", { x: X(x), y: height - bottom + 18, "text-anchor": "middle" }, short(x));
  }
  element(picture, "text", { class: "label", x: (left + width - right) / 2, y: height - 6, "text-anchor": "middle" }, fitted(chart.x, width - left - right));
  element(picture, "text", { class: "label", x: 12, y: (height - bottom + top) / 2, "text-anchor": "middle", transform: `rotate(-90 12 ${(height - bottom + top) / 2})` }, fitted(chart.y, height - bottom - top));
  for (const each of series) {
    const points = each.x.map((x, n) => [X(x), each.low[n], each.high[n]]);
    const over = points.map(([x, , high]) => `${x.toFixed(1)},${Y(high).toFixed(1)}`);
    const under = points.map(([x, low]) => `${x.toFixed(1)},${Y(low).toFixed(1)}`).reverse();
    if (points.length > 1) element(picture, "polygon", { class: `band ${kind(each.line)}`, "fill-opacity": series.length > 4 ? 0.09 : 0.16, points: [...over, ...under].join(" ") });
  }
  for (const each of series) {
    const path = each.x.map((x, n) => `${n ? "L" : "M"}${X(x).toFixed(1)} ${Y(each.mean[n]).toFixed(1)}`);
    element(picture, "path", { class: `line ${kind(each.line)}`, d: path.join("") });
    if (each.x.length <= 12) each.x.forEach((x, n) => element(picture, "circle", { class: `dot ${kind(each.line)}`, cx: X(x), cy: Y(each.mean[n]), r: 3.5 }));
  }
  followed(place, picture, chart, series, { X, places, top, height: height - bottom, width });
}

function followed(place, picture, chart, series, frame) {
  const readout = place.nextElementSibling;
  const rule = element(picture, "line", { class: "rule", y1: frame.top, y2: frame.height, visibility: "hidden" });
  picture.addEventListener("pointermove", (event) => {
    const box = picture.getBoundingClientRect();
    const at = (event.clientX - box.left) * frame.width / box.width;
    const near = frame.places.reduce((a, b) => Math.abs(frame.X(b) - at) < Math.abs(frame.X(a) - at) ? b : a);
    for (const end of ["x1", "x2"]) rule.setAttribute(end, frame.X(near));
    rule.setAttribute("visibility", "visible");
    readout.replaceChildren();
    element(readout, "span", {}, `${chart.x.split(":")[0]} ${short(near)}`);
    for (const each of series) {
      const n = each.x.indexOf(near);
      if (n < 0) continue;
      const entry = element(readout, "span");
      element(entry, "span", { class: `swatch ${kind(each.line)}` });
      entry.append(`${DATA.lines[each.line]} ${short(each.mean[n])}`);
    }
  });
  picture.addEventListener("pointerleave", () => {
    rule.setAttribute("visibility", "hidden");
    readout.replaceChildren();
  });
}

function dots(place, chart, series, width) {
  const left = Math.min(190, Math.round(width * 0.4)), right = 16, row = 28;
  const height = series.length * row + 46;
  const picture = element(place, "svg", {
    viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-label": described(chart, series),
  });
  let [x0, x1] = extent([0, ...series.flatMap((s) => [s.low[0], s.high[0]])]);
  const pad = (x1 - x0) * 0.05; x0 -= pad; x1 += pad;
  const X = (x) => left + (x - x0) / (x1 - x0) * (width - left - right);
  for (const x of ticks(x0, x1, Math.max(2, (width - left) / 70))) {
    element(picture, "line", { class: x === 0 ? "rule" : "grid", x1: X(x), x2: X(x), y1: 0, y2: series.length * row });
    element(picture, "text", { x: X(x), y: series.length * row + 16, "text-anchor": "middle" }, short(x));
  }
  series.forEach((each, n) => {
    const y = n * row + row / 2;
    const label = element(picture, "text", { class: "label", x: left - 10, y: y + 4, "text-anchor": "end" }, fitted(DATA.lines[each.line], left - 12));
    element(label, "title", {}, DATA.lines[each.line]);
    element(picture, "line", { class: `range ${kind(each.line)}`, x1: X(each.low[0]), x2: X(each.high[0]), y1: y, y2: y });
    element(picture, "circle", { class: `dot ${kind(each.line)}`, cx: X(each.mean[0]), cy: y, r: 5 });
  });
  element(picture, "text", { class: "label", x: width / 2, y: height - 6, "text-anchor": "middle" }, fitted(chart.x, width));
}

function fitted(text, room) {
  const most = Math.max(4, Math.floor(room / 6.4));
  return text.length > most ? `${text.slice(0, most - 1)}…` : text;
}

function described(chart, series) {
  const ends = series.map((s) => `${DATA.lines[s.line]}: ${short(s.mean.at(-1))}`);
  return `${chart.title}. Last values: ${ends.join("; ")}. All values stand under Data.`;
}

function dataTable(details) {
  const place = details.querySelector(".scroll");
  if (!details.open || place.firstChild) return;
  const chart = DATA.charts[details.dataset.chart];
  const table = element(place, "table");
  const head = element(element(table, "thead"), "tr");
  for (const text of ["Row", chart.kind === "dots" ? "" : chart.x, "mean", "lowest", "highest", "seeds, at most"]) element(head, "th", { scope: "col" }, text);
  const body = element(table, "tbody");
  for (const each of chart.series) each.x.forEach((x, n) => {
    const row = element(body, "tr");
    element(row, "th", { scope: "row" }, DATA.lines[each.line]);
    const values = [chart.kind === "dots" ? "" : short(x), ...[each.mean[n], each.low[n], each.high[n]].map(short), String(each.n)];
    for (const value of values) element(row, "td", {}, value);
  });
}

function charts() {
  const places = document.querySelectorAll(".plot");
  const boxes = document.querySelectorAll("#lines input");
  const choose = () => {
    visible.clear();
    for (const box of boxes) if (box.checked) visible.add(Number(box.dataset.line));
    places.forEach(drawn);
  };
  for (const box of boxes) box.addEventListener("change", choose);
  const widths = new WeakMap();
  const observer = new ResizeObserver((entries) => {
    for (const { target } of entries) {
      if (widths.get(target) === target.clientWidth) continue;
      widths.set(target, target.clientWidth);
      drawn(target);
    }
  });
  choose();
  for (const place of places) observer.observe(place);
  for (const details of document.querySelectorAll("details.data")) details.addEventListener("toggle", () => dataTable(details));
}

// ---- examples -----------------------------------------------------------------------------

const unpacked = new Map();

async function unpack(attention) {
  if (!unpacked.has(attention)) {
    const bytes = Uint8Array.from(atob(attention.data), (sign) => sign.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    unpacked.set(attention, new Uint8Array(await new Response(stream).arrayBuffer()));
  }
  return unpacked.get(attention);
}

function options(select, texts, chosen) {
  select.replaceChildren();
  texts.forEach(([value, text]) => element(select, "option", { value }, text));
  if (texts.some(([value]) => String(value) === String(chosen))) select.value = chosen;
}

class Pane {
  constructor(place, side, line) {
    const root = element(place, "article", { class: "pane", "aria-label": `${side} answer` });
    this.row = this.choice(root, "Row", () => this.show());
    options(this.row, DATA.lines.map((text, n) => [n, text]), line);
    this.response = this.choice(root, "Response", () => this.show());
    this.color = this.choice(root, "Colour", () => this.paint());
    this.picture = element(root, "div", { class: "picture" });
    this.image = element(this.picture, "img", { alt: "" });
    this.overlay = element(this.picture, "svg", { "aria-hidden": "true", preserveAspectRatio: "none", viewBox: "0 0 1 1" });
    this.verdict = element(root, "p", { class: "verdict" });
    this.tokens = element(root, "div", { class: "tokens", tabindex: "0", role: "listbox", "aria-orientation": "horizontal", "aria-label": `Tokens of the ${side} answer` });
    this.about = element(root, "p", { class: "about", role: "status" });
    this.side = side;
    this.at = this.pinned = -1; // the token that is shown, and the one that was chosen
    this.tokens.addEventListener("keydown", (event) => this.key(event));
    this.tokens.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") this.step(this.pinned); });
  }

  choice(root, text, changed) {
    const label = element(root, "label");
    element(label, "span", {}, text);
    const select = element(label, "select");
    select.addEventListener("change", changed);
    return select;
  }

  ask(question) {
    this.question = question;
    this.show();
  }

  show() {
    const found = this.question.answers[this.row.value] || [];
    const before = this.response.value;
    options(this.response, found.map((answer) => [answer.title, answer.title]), before);
    this.answer = found.find((answer) => answer.title === this.response.value);
    const names = this.answer ? Object.keys(this.answer.values) : [];
    options(this.color, [...names, "nothing"].map((name) => [name, name]), this.color.value);
    this.response.disabled = !found.length;
    this.color.disabled = !names.length;
    this.draw();
  }

  draw() {
    const { question, answer } = this;
    this.picture.hidden = !question.image;
    if (question.image) this.image.src = question.image;
    this.image.alt = `Image of the question “${question.question}”, with ${question.boxes.length} evidence box${question.boxes.length === 1 ? "" : "es"}`;
    this.image.onload = () => this.image.classList.toggle("small", this.image.naturalWidth < 200);
    const right = answer && answer.correct;
    this.verdict.className = `verdict ${right ? "right" : "wrong"}`;
    this.verdict.textContent = !answer ? "No response of this row was kept."
      : `${right ? "✓ right" : "✗ wrong"}: ${answer.extracted === null ? "no answer found" : `“${answer.extracted}”`}, gold “${question.answer}”${answer.status && answer.status !== "ok" ? ` (${answer.status})` : ""}`;
    this.tokens.replaceChildren();
    this.spans = [];
    const texts = !answer ? [] : answer.tokens.length ? answer.tokens : [answer.response];
    texts.forEach((text, n) => {
      const span = element(this.tokens, "span", { class: "token", role: "option", id: `${this.side}-token-${n}`, "aria-selected": "false" }, text);
      span.addEventListener("pointerenter", (event) => { if (event.pointerType === "mouse") this.step(n); });
      span.addEventListener("click", () => this.pin(n === this.pinned ? -1 : n));
      this.spans.push(span);
    });
    this.paint();
    this.pin(-1);
  }

  paint() {
    const name = this.color.value, values = this.answer && this.answer.values[name];
    const centre = name === "credit" ? 1 : 0;
    const everyone = Object.values(this.question.answers).flat().flatMap((a) => a.values[name] || []);
    const most = Math.max(...everyone.filter((v) => v !== null).map((v) => Math.abs(v - centre)), 0) || 1;
    this.spans.forEach((span, n) => {
      const value = values ? values[n] : null;
      const known = value !== null && value !== undefined;
      span.style.setProperty("--w", known ? `${(60 * Math.abs(value - centre) / most).toFixed(1)}%` : "0%");
      span.classList.toggle("less", known && value < centre);
      span.classList.toggle("against", known && name === "credit" && value < 0);
      if (known) span.title = `${name} ${short(value)}`; else span.removeAttribute("title");
    });
  }

  key(event) {
    const last = this.spans.length - 1;
    const to = {
      ArrowRight: Math.min(this.at + 1, last), ArrowDown: Math.min(this.at + 1, last),
      ArrowLeft: Math.max(this.at - 1, 0), ArrowUp: Math.max(this.at - 1, 0),
      Home: 0, End: last, Escape: -1,
    }[event.key];
    if (to === undefined || last < 0) return;
    event.preventDefault();
    this.pin(to);
  }

  pin(n) {
    this.pinned = n;
    this.step(n);
  }

  step(n) {
    this.at = n;
    this.spans.forEach((span, m) => span.setAttribute("aria-selected", String(m === n)));
    if (n >= 0) this.tokens.setAttribute("aria-activedescendant", this.spans[n].id);
    else this.tokens.removeAttribute("aria-activedescendant");
    this.tell(n);
    this.shade(n);
  }

  tell(n) {
    const { answer } = this;
    if (!answer) { this.about.textContent = ""; return; }
    const attention = answer.attention;
    const where = attention ? ` Attention: layer ${attention.layer}, ${attention.rows} × ${attention.columns} image tokens.` : " Attention was not kept.";
    if (n < 0 || !answer.tokens.length) { this.about.textContent = `Whole response of ${answer.run}.${where}`; return; }
    const values = Object.entries(answer.values).filter(([, own]) => own[n] !== null).map(([name, own]) => `${name} ${short(own[n])}`);
    this.about.textContent = `Token ${n + 1} of ${answer.tokens.length} “${answer.tokens[n]}”: ${values.join(", ") || "no values kept"}.`;
  }

  async shade(n) {
    const { answer, question } = this;
    const ticket = this.ticket = {};
    let shares = null;
    if (answer && answer.attention && byId("attention").checked) {
      try {
        shares = await unpack(answer.attention);
      } catch {
        this.about.textContent += " This browser cannot unpack it.";
      }
    }
    if (ticket !== this.ticket) return;
    this.overlay.replaceChildren();
    if (shares) cells(this.overlay, answer.attention, shares, n);
    if (byId("boxes").checked) for (const [x1, y1, x2, y2] of question.boxes) {
      element(this.overlay, "rect", { class: "box", x: x1, y: y1, width: x2 - x1, height: y2 - y1 });
    }
  }
}

function cells(overlay, { rows, columns }, shares, n) {
  const size = rows * columns, count = shares.length / size;
  const means = (cell) => { let sum = 0; for (let t = 0; t < count; t++) sum += shares[t * size + cell]; return sum / count; };
  for (let cell = 0; cell < size; cell++) {
    const value = n < 0 ? means(cell) : shares[n * size + cell];
    element(overlay, "rect", {
      class: "cell", "fill-opacity": (0.75 * value / 255).toFixed(3),
      x: (cell % columns) / columns, y: Math.floor(cell / columns) / rows, width: 1 / columns, height: 1 / rows,
    });
  }
}

function examples() {
  const place = byId("panes"), select = byId("question"), count = DATA.questions.length;
  const there = DATA.lines.map((_, n) => n).filter((n) => DATA.questions.some((q) => q.answers[n]));
  const panes = [new Pane(place, "left", there[0]), new Pane(place, "right", there.at(-1))];
  options(select, DATA.questions.map((q, n) => [n, `${n + 1}/${count}: ${q.question}`]), 0);
  const ask = (number) => {
    const n = (number + count) % count, question = DATA.questions[n];
    select.value = n;
    byId("asked").textContent = `${question.question} Gold answer: ${question.answer}${question.tag ? ` (${question.tag} evidence)` : ""}. ${question.id}`;
    for (const pane of panes) pane.ask(question);
  };
  select.addEventListener("change", () => ask(Number(select.value)));
  byId("previous").addEventListener("click", () => ask(Number(select.value) - 1));
  byId("next").addEventListener("click", () => ask(Number(select.value) + 1));
  for (const id of ["boxes", "attention"]) byId(id).addEventListener("change", () => panes.forEach((pane) => pane.shade(pane.at)));
  ask(0);
}

const table = document.querySelector(".vexp-table");
if (table) sortable(table);
if (byId("copy")) byId("copy").addEventListener("click", copyLatex);
charts();
if (byId("panes")) examples();
