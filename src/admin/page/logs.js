// What happened: state changes of hosts, and requests that were refused or met a fault. Newest first.

import { byId, clock, duration, element } from "./dom.js";
import { show } from "./story.js";

const MOST = 100;

/** What a host did with a request, by the verdict on it. */
const DEEDS = {
  deliver: "answered",
  busy: "was full",
  fault: "broke off",
  refused: "refused the connection",
  server_error: "had an error",
  unusable: "gave what can be no result",
  front: "answered what is not about the request",
  forbidden: "forbade it",
  no_model: "lacked the model",
  limit: "does not take such a request",
  ours: "could not be asked: the proxy was short of something",
  moved: "was ejected meanwhile",
  misconfigured: "refused the proxy's key",
  abandoned: "was given up",
  apart: "gave no answer for each of the requests that it was asked at once",
};

/** States that come and go by themselves are not read out. */
const PASSING = ["busy", "free"];

export function remember({ events, incidents }, afresh) {
  events.forEach(replaceEarlier);
  prepend(byId("events"), events.map(eventItem), afresh);
  prepend(byId("incidents"), incidents.map(incidentRow), afresh);
  byId("no-events").hidden = byId("events").children.length > 0;
  byId("no-incidents").hidden = byId("incidents").children.length > 0;
  if (!afresh) announce(events.filter(({ kind }) => !PASSING.includes(kind)));
}

function prepend(list, items, afresh) {
  if (afresh) list.replaceChildren();
  list.prepend(...items.reverse());
  while (list.children.length > MOST) list.lastElementChild.remove();
}

/** For those who listen: what changed, not every number. */
function announce(events) {
  if (events.length === 0) return;
  byId("announcements").textContent = events.map(({ host, text }) => `${host} ${text}`).join(". ");
}

/** What happens again is told in one place. */
function replaceEarlier({ host, group }) {
  const earlier = [...byId("events").children];
  earlier.find((item) => item.dataset.host === host && item.dataset.group === group)?.remove();
}

function eventItem({ first_ms, at_ms, count, group, host, level, kind, text }) {
  const often = count > 1 ? [element("span", { class: "aside" }, ` ${count} times since `, time(first_ms))] : [];
  return element(
    "li",
    { class: `${level} ${PASSING.includes(kind) ? "passing" : ""}`, "data-host": host, "data-group": group },
    time(at_ms),
    element("span", {}, element("b", {}, host), ` ${text}`, ...often),
  );
}

function incidentRow({ at_ms, id, client, route, status, why, took_ms, attempts }) {
  const row = element("tr", { role: "row", class: status < 500 && status !== 429 ? "hidden-fault" : "lost" });
  row.append(
    element("td", { role: "cell" }, time(at_ms)),
    element("td", { role: "cell" }, element("b", {}, outcome(status)), element("span", { class: "aside" }, ` after ${duration(took_ms / 1000)}`)),
    element("td", { role: "cell" }, way(route, client, attempts, why), story(id)),
  );
  return row;
}

/** The id, which opens what became of its request. */
function story(id) {
  const button = element("button", { type: "button", class: "id", title: "X-Request-Id: show its story" }, id);
  button.addEventListener("click", () => show(id));
  return button;
}

function outcome(status) {
  if (status === 499) return "nothing: it left";
  if (status < 400) return `${status}, an answer`;
  return status === 429 || status === 503 ? `${status}, no room` : `${status}, an error`;
}

function way(route, client, attempts, why) {
  const who = client === null ? route : `${route} for ${client}`;
  const tries = attempts.map(({ host, share, verdict }) => `${host}${share} ${DEEDS[verdict] ?? verdict}`);
  const story = [tries.join(", then "), why ?? ""].filter((part) => part !== "").join("; ");
  return element("p", {}, `${who}: ${story}`);
}

function time(atMs) {
  return element("time", { datetime: new Date(atMs).toISOString() }, clock(atMs));
}
