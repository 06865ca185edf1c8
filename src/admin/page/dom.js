// Small helpers around the document. Text goes in as text only: names of hosts, models and clients
// are other people's words, and must never become markup.

const SVG = "http://www.w3.org/2000/svg";

/** The element with this id. */
export const byId = (id) => document.getElementById(id);

/** A new element: `element("td", {class: "x"}, "text", child)`. */
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/** A new element of a drawing. */
export function drawing(name, attributes = {}) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

/** Changes the text only if it is another one, so that nothing is selected or read out again. */
export function setText(target, text) {
  if (target.textContent !== text) target.textContent = text;
}

/** The same with numbers and their units on one line. */
export const unbroken = (text) => text.replace(/(\d) (s|%)(?!\w)/g, "$1\u00a0$2");

/** "3.4", "120", "0": as many digits as are worth reading. */
export function number(value) {
  if (value >= 100 || Number.isInteger(value)) return String(Math.round(value));
  return value >= 10 ? value.toFixed(1) : value.toFixed(value >= 1 ? 1 : 2);
}

/** "140 ms", "2.3 s". */
export function duration(seconds) {
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  return seconds < 10 ? `${seconds.toFixed(1)} s` : `${Math.round(seconds)} s`;
}

/** "50 s", "12 min", "3 h 5 min", "2 d 4 h". */
export function span(seconds) {
  const parts = [
    [Math.floor(seconds / 86400), "d"],
    [Math.floor(seconds / 3600) % 24, "h"],
    [Math.floor(seconds / 60) % 60, "min"],
  ];
  const first = parts.findIndex(([count]) => count > 0);
  if (first < 0) return `${Math.floor(seconds)} s`;
  const shown = parts.slice(first, first + 2).filter(([count]) => count > 0);
  return shown.map(([count, unit]) => `${count} ${unit}`).join(" ");
}

/** "12 %", and "<1 %" of something that there is. */
export function percent(share) {
  if (share <= 0) return "0 %";
  return share < 0.01 ? "<1 %" : `${Math.round(share * 100)} %`;
}

/** The time of day by the reader's own clock. */
export function clock(atMs) {
  return new Date(atMs).toLocaleTimeString([], { hour12: false });
}
