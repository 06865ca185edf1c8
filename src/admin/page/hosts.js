// The table of hosts: a row is made once and then kept up to date, so that focus, selection and what
// a screen reader is at stay where they are.

import { byId, duration, element, number, percent, setText, unbroken } from "./dom.js";
import { Plot } from "./history.js";
import { confirm } from "./operate.js";

/** Word and sign of each state, so that nothing is told by colour alone. */
const STATES = {
  unknown: ["not checked yet", "?"],
  up: ["up", "✓"],
  busy: ["busy", "◔"],
  trial: ["on trial", "↻"],
  not_ready: ["not ready", "…"],
  ejected: ["ejected", "✕"],
  misconfigured: ["wrong key", "⚿"],
  draining: ["draining", "↓"],
  drained: ["drained", "■"],
};
/** Slots that are drawn one by one. */
const MOST_SLOTS = 24;
const MOST_MODELS = 6;
const GB = 1024;

const rows = new Map();

/** The id of a host's row; names may hold anything. */
export const rowId = (name) => `host-${encodeURIComponent(name)}`;

/** Makes `target` the sign of a state. */
export function badge(target, state) {
  const [word, sign] = STATES[state] ?? [state, "?"];
  if (target.dataset.state === state) return;
  target.dataset.state = state;
  target.className = `badge ${state}`;
  target.replaceChildren(element("i", { "aria-hidden": "true" }, sign), ` ${word}`);
}

/** Shows exactly these hosts, in their order. */
export function render(push) {
  const { hosts } = push.pool;
  const body = byId("host-rows");
  const names = new Set(hosts.map((host) => host.name));
  for (const [name, row] of rows) {
    if (names.has(name)) continue;
    row.row.remove();
    rows.delete(name);
  }
  hosts.forEach((host, index) => {
    if (!rows.has(host.name)) rows.set(host.name, new Row(host.name));
    const row = rows.get(host.name);
    if (body.children[index] !== row.row) body.insertBefore(row.row, body.children[index] ?? null);
    row.update(host, push.at_ms);
  });
}

class Row {
  constructor(name) {
    this.name = name;
    this.row = element("tr", { role: "row", id: rowId(name), tabindex: "-1" });
    this.host();
    this.slots();
    this.memory();
    this.answers();
    this.times();
    this.operations();
  }

  cell(label, ...children) {
    const cell = element("td", { role: "cell", "data-label": label }, ...children);
    this.row.append(cell);
    return cell;
  }

  host() {
    this.badge = element("span");
    this.why = element("p", { class: "why" });
    this.problem = element("p", { class: "problem" });
    this.place = element("p", { class: "place" });
    const name = element("b", { class: "name" }, this.name);
    const head = element("th", { role: "rowheader", scope: "row" });
    head.append(name, this.badge, this.why, this.problem, this.place);
    this.row.append(head);
  }

  slots() {
    this.slotBoxes = element("div", { class: "slots", "aria-hidden": "true" });
    this.slotText = element("p", { class: "aside" });
    this.cell("Slots", this.slotBoxes, this.slotText);
  }

  memory() {
    this.fill = element("i");
    this.bar = element("div", { class: "bar", "aria-hidden": "true" }, this.fill);
    this.memoryText = element("p", { class: "aside" });
    this.models = element("ul", { class: "models", "aria-label": `Models in the memory of ${this.name}` });
    this.cell("Memory and models", this.bar, this.memoryText, this.models);
  }

  answers() {
    this.rate = element("b");
    this.shares = element("p", { class: "aside" });
    const plot = element("div", { class: "plot" });
    this.cell("Answers a second", this.rate, plot, this.shares);
    this.ratePlot = new Plot(plot, {
      label: `Answers of ${this.name} a second`,
      lines: [
        { kind: "area", name: "answered", pick: ({ hosts }) => hosts[this.name]?.answered },
        { kind: "line bad", name: "refused or failed", pick: ({ hosts }) => hosts[this.name] && this.lost(hosts[this.name]) },
      ],
      say: number,
    });
  }

  lost({ busy, failed }) {
    return busy + failed > 0 ? busy + failed : null;
  }

  times() {
    this.p50 = element("b");
    this.p99 = element("p", { class: "aside" });
    this.speed = element("p", { class: "aside" });
    const plot = element("div", { class: "plot" });
    this.cell("Time to answer", this.p50, plot, this.p99, this.speed);
    this.timePlot = new Plot(plot, {
      label: `Time that ${this.name} takes for 99 of 100 answers`,
      lines: [
        { kind: "line", name: "for 99 %", pick: ({ hosts }) => hosts[this.name]?.p99_ms },
        { kind: "line faint", name: "for half", pick: ({ hosts }) => hosts[this.name]?.p50_ms },
      ],
      say: (ms) => duration(ms / 1000),
    });
  }

  operations() {
    this.button = element("button", { type: "button" });
    this.button.addEventListener("click", () => this.operate());
    this.cell("", this.button);
  }

  operate() {
    const path = `api/v1/hosts/${encodeURIComponent(this.name)}/`;
    confirm(
      this.draining
        ? { title: `Undrain ${this.name}?`, text: "It gets requests again.", yes: "Undrain", path: `${path}undrain` }
        : {
            title: `Drain ${this.name}?`,
            text: "It finishes what it has and gets nothing new, until somebody undrains it.",
            yes: "Drain",
            path: `${path}drain`,
          },
    );
  }

  update(host, nowMs) {
    this.row.dataset.state = host.state;
    badge(this.badge, host.state);
    setText(this.why, unbroken(host.why ?? ""));
    const told = host.problem === null || host.why?.includes(host.problem);
    setText(this.problem, told ? "" : `Last check: ${host.problem}`);
    setText(this.place, host.device === null ? host.url : `${host.url} · ${host.device}`);
    setText(this.speed, host.speed === null ? "" : `speed ${host.speed.toFixed(2)}x`);
    this.updateSlots(host);
    this.updateMemory(host);
    this.updateRates(host.attempts);
    this.ratePlot.draw(nowMs);
    this.timePlot.draw(nowMs);
    this.draining = host.draining;
    const order = host.draining ? "Undrain" : "Drain";
    if (this.button.textContent !== order) {
      this.button.textContent = order;
      this.button.setAttribute("aria-label", `${order} ${this.name}`);
    }
  }

  updateSlots({ in_flight: ours, foreign, slots, capacity }) {
    const free = Math.max(0, slots - ours);
    const closed = Math.max(0, capacity - ours - foreign - free);
    const kinds = [
      [ours, "ours"],
      [foreign, "others"],
      [free, ""],
      [closed, "closed"],
    ];
    const drawn = kinds.flatMap(([count, kind]) => Array(Math.min(count, MOST_SLOTS)).fill(kind));
    const boxes = drawn.slice(0, MOST_SLOTS);
    const picture = boxes.join();
    if (this.slotBoxes.dataset.picture !== picture || boxes.length === 0) {
      this.slotBoxes.dataset.picture = picture;
      this.slotBoxes.replaceChildren(...boxes.map((kind) => element("i", { class: `slot ${kind}` })));
    }
    const others = foreign > 0 ? `, ${foreign} of them by others` : "";
    setText(this.slotText, `${ours + foreign} of ${capacity} in use${others}`);
  }

  updateMemory({ vram_used_mb: used, vram_total_mb: total, models, more_models }) {
    this.bar.hidden = total === null || used === null;
    if (!this.bar.hidden) this.fill.style.width = `${Math.min(100, (used / Math.max(total, 1)) * 100)}%`;
    const gb = (mb) => (mb === null ? "?" : (mb / GB).toFixed(1));
    setText(this.memoryText, total === null ? "memory unknown" : `${gb(used)} of ${gb(total)} GB`);
    const picture = JSON.stringify([models, more_models]);
    if (this.models.dataset.picture === picture) return;
    this.models.dataset.picture = picture;
    const shown = models.slice(0, MOST_MODELS).map((model) => element("li", {}, model));
    const more = models.length - shown.length + more_models;
    if (more > 0) shown.push(element("li", { title: models.join("\n") }, `and ${more} more`));
    this.models.hidden = shown.length === 0;
    this.models.replaceChildren(...shown);
  }

  updateRates({ per_second, refused, failed, p50_seconds, p99_seconds }) {
    setText(this.rate, number(per_second));
    const shares = [
      [failed, "failed"],
      [refused, "turned away"],
    ].filter(([share]) => share > 0);
    setText(this.shares, shares.map(([share, word]) => `${percent(share)} ${word}`).join(", ") || "none failed");
    this.shares.classList.toggle("bad", failed > 0);
    setText(this.p50, p50_seconds === null ? "–" : duration(p50_seconds));
    setText(this.p99, p99_seconds === null ? "no answers lately" : `99 % within ${duration(p99_seconds)}`);
  }
}
