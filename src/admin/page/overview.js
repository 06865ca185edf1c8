// The pool as a whole: whether anybody needs to care, who is hurting, and the way of the requests.

import { byId, duration, element, number, percent, setText, span, unbroken } from "./dom.js";
import { Plot } from "./history.js";
import { badge, rowId } from "./hosts.js";

/** States that last until somebody or something ends them; being busy passes by itself. */
const LASTING = ["misconfigured", "ejected", "not_ready", "trial", "draining", "drained"];

const sum = (hosts, pick) => Object.values(hosts).reduce((all, host) => all + pick(host), 0);

const plots = [
  new Plot(byId("plot-answered"), {
    label: "Requests answered a second",
    lines: [{ kind: "area", name: "answered", pick: (sample) => sample.answered }],
    say: number,
  }),
  new Plot(byId("plot-waiting"), {
    label: "Requests waiting",
    lines: [{ kind: "area", name: "waiting", pick: (sample) => sample.waiting }],
    say: number,
  }),
  new Plot(byId("plot-running"), {
    label: "Requests running on hosts",
    lines: [{ kind: "area", name: "running", pick: (sample) => sum(sample.hosts, (host) => host.in_flight) }],
    say: number,
  }),
  new Plot(byId("plot-lost"), {
    label: "Requests refused or failed a second",
    lines: [{ kind: "area bad", name: "refused or failed", pick: (sample) => sample.refused + sample.failed }],
    say: number,
  }),
];

export function render(push) {
  const { pool } = push;
  verdict(pool);
  setText(byId("version"), `${pool.version}, up for ${span(pool.uptime_seconds)}`);
  setText(byId("policy"), `Policy: ${pool.policy}`);
  requests(pool.requests, pool.reshaped);
  queue(pool.queue);
  running(pool.hosts);
  for (const plot of plots) plot.draw(push.at_ms);
}

function verdict({ summary, hosts }) {
  const [first, ...more] = summary.text.split(/(?<=\.) /);
  byId("verdict").className = `verdict ${summary.level}`;
  setText(byId("verdict-text"), first);
  setText(byId("verdict-more"), more.join(" "));
  const sign = summary.level === "good" ? "" : "⚠ ";
  document.title = `${sign}gpu-bridge: ${first}`;
  attention(hosts);
}

/** Those hosts that an operator should look at, worst first, with the reason. */
function attention(hosts) {
  const rank = (host) => (LASTING.includes(host.state) ? LASTING.indexOf(host.state) : LASTING.length);
  const doubtful = (host) => host.state === "up" && host.attempts.failed > 0.05;
  const hurting = hosts.filter((host) => LASTING.includes(host.state) || doubtful(host));
  hurting.sort((a, b) => rank(a) - rank(b));
  const list = byId("attention");
  while (list.children.length > hurting.length) list.lastElementChild.remove();
  hurting.forEach((host, index) => {
    const item = list.children[index] ?? list.appendChild(entry());
    const [sign, link, why] = item.children;
    badge(sign, host.state);
    link.setAttribute("href", `#${rowId(host.name)}`);
    setText(link, host.name);
    setText(why, unbroken(host.why ?? ""));
  });
}

function entry() {
  return element("li", {}, element("span"), element("a"), element("span", { class: "why" }));
}

function requests({ per_second, ended, refused, failed, p50_seconds, p99_seconds }, { in_parts, together }) {
  setText(byId("rate"), number(per_second));
  const told = ["none in the last minute"];
  if (p50_seconds !== null) {
    told[0] = `half within ${duration(p50_seconds)}, 99 % within ${duration(p99_seconds)}`;
  }
  // So that nobody wonders why hosts see other requests than clients send.
  if (in_parts > 0) told.push(`${percent(in_parts)} cut into parts`);
  if (together > 0) told.push(`${percent(together)} sent together with others`);
  setText(byId("latency"), told.join("; "));
  setText(byId("lost"), percent(refused + failed));
  byId("lost").classList.toggle("bad", refused + failed > 0);
  setText(byId("lost-more"), `of ${number(ended)}: ${percent(refused)} turned away, ${percent(failed)} failed`);
}

function queue({ waiting, max_waiting, oldest_wait_seconds, expected_wait_seconds }) {
  setText(byId("waiting"), number(waiting));
  setText(byId("waiting-limit"), `of at most ${max_waiting}`);
  const parts = [];
  if (oldest_wait_seconds !== null) parts.push(`the first for ${duration(oldest_wait_seconds)}`);
  if (waiting > 0 && expected_wait_seconds > 0) {
    parts.push(`all served in about ${duration(expected_wait_seconds)}`);
  }
  setText(byId("wait"), parts.join(", ") || "nobody waits");
}

function running(hosts) {
  const all = (pick) => hosts.reduce((sum, host) => sum + pick(host), 0);
  setText(byId("running"), number(all((host) => host.in_flight)));
  setText(byId("running-limit"), `in ${all((host) => Math.max(host.slots, host.in_flight))} slots`);
  const foreign = all((host) => host.foreign);
  setText(byId("foreign"), foreign > 0 ? `others run ${foreign} more on the same hosts` : "nobody else uses the hosts");
}
