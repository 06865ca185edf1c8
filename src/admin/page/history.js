// The last five minutes, second by second, and how they are drawn.

import { clock, drawing, setText, element } from "./dom.js";

const SECONDS = 300;
const HEIGHT = 40;

let samples = [];

/** Takes in seconds that are over; `afresh`: they are all there is. */
export function remember(more, afresh) {
  samples = (afresh ? more : samples.concat(more)).slice(-SECONDS);
}

/** What `pick` finds in each second, as [seconds ago, value] with null for nothing. */
function series(pick, nowMs) {
  return samples.map((sample) => [(nowMs - sample.at_ms) / 1000, pick(sample) ?? null]);
}

/**
 * A plot of some lines, which redraws itself. `lines`: `[{kind, name, pick}]`; those of kind "area" are
 * filled. `say(value)` puts a value in words. Pointing at it, or the arrow keys, tell the values of a
 * second.
 */
export class Plot {
  constructor(target, { label, lines, say }) {
    this.label = label;
    this.lines = lines;
    this.say = say;
    this.drawing = drawing("svg", {
      viewBox: `0 0 ${SECONDS} ${HEIGHT}`,
      preserveAspectRatio: "none",
      role: "img",
      tabindex: "0",
    });
    this.paths = lines.map(({ kind }) => {
      const path = drawing("path", { class: kind, "vector-effect": "non-scaling-stroke" });
      this.drawing.append(path);
      return path;
    });
    this.cursor = drawing("line", { class: "cursor", y1: 0, y2: HEIGHT, "vector-effect": "non-scaling-stroke" });
    this.drawing.append(this.cursor);
    this.most = element("span", { class: "most", "aria-hidden": "true" });
    this.readout = element("output", { class: "readout" });
    const times = ["5 min ago", "2½ min", "now"].map((time) => element("span", {}, time));
    const axis = element("div", { class: "axis", "aria-hidden": "true" }, ...times);
    target.append(this.readout, this.most, this.drawing, axis);
    this.ago = null;
    this.drawing.addEventListener("pointermove", (event) => {
      const { left, width } = this.drawing.getBoundingClientRect();
      this.read(SECONDS * (1 - (event.clientX - left) / width));
    });
    for (const end of ["pointerleave", "blur"]) this.drawing.addEventListener(end, () => this.read(null));
    this.drawing.addEventListener("keydown", (event) => this.move(event));
  }

  /** With the arrow keys, second by second. */
  move(event) {
    const steps = { ArrowLeft: 1, ArrowRight: -1, PageUp: 30, PageDown: -30 };
    if (!(event.key in steps)) return;
    event.preventDefault();
    this.read((this.ago ?? 0) + steps[event.key]);
  }

  /** Tells the values of the second that was so many seconds ago; `null`: of none. */
  read(ago) {
    this.ago = ago === null ? null : Math.min(SECONDS, Math.max(0, ago));
    const at = this.ago === null ? undefined : samples.at(-1 - Math.round(this.ago));
    this.cursor.toggleAttribute("hidden", at === undefined);
    if (this.ago !== null) {
      this.cursor.setAttribute("x1", SECONDS - this.ago);
      this.cursor.setAttribute("x2", SECONDS - this.ago);
    }
    setText(this.readout, at === undefined ? "" : `${clock(at.at_ms)}: ${this.values(at)}`);
    this.most.hidden = at !== undefined;
  }

  values(sample) {
    const told = this.lines.map(({ name, pick }) => [pick(sample) ?? null, name]);
    const known = told.filter(([value]) => value !== null);
    return known.map(([value, name]) => `${this.say(value)} ${name}`).join(", ") || "nothing";
  }

  draw(nowMs) {
    const all = this.lines.map(({ pick }) => series(pick, nowMs));
    const values = all.flat().map(([, value]) => value ?? 0);
    const most = Math.max(0, ...values);
    all.forEach((points, index) => {
      const { kind } = this.lines[index];
      // Nothing that is bad is no line, rather than a red one.
      const drawn = most > 0 || !kind.includes("bad");
      this.paths[index].setAttribute("d", drawn ? shape(points, most, kind.includes("area")) : "");
    });
    const last = all[0].at(-1)?.[1] ?? 0;
    const words = `${this.label} over the last five minutes: now ${this.say(last)}, at most ${this.say(most)}`;
    this.drawing.setAttribute("aria-label", words);
    setText(this.most, most > 0 ? `max ${this.say(most)}` : "");
    this.read(this.ago);
  }
}

/** A path through the points; a second without a value interrupts it. */
function shape(points, most, filled) {
  const y = (value) => (most > 0 ? HEIGHT - 1 - (value / most) * (HEIGHT - 3) : HEIGHT - 1);
  const parts = [];
  let stretch = [];
  const end = () => {
    if (stretch.length > 0) parts.push(filled ? closed(stretch) : `M${stretch.join("L")}`);
    stretch = [];
  };
  for (const [ago, value] of points) {
    if (value === null) end();
    else stretch.push(`${(SECONDS - ago).toFixed(1)} ${y(value).toFixed(1)}`);
  }
  end();
  return parts.join("");
}

function closed(stretch) {
  const x = (point) => point.split(" ")[0];
  return `M${x(stretch[0])} ${HEIGHT}L${stretch.join("L")}L${x(stretch.at(-1))} ${HEIGHT}Z`;
}
