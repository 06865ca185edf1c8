// Puts the parts of the page together: each push goes to all of them.

import { byId, clock, setText } from "./dom.js";
import * as history from "./history.js";
import * as hosts from "./hosts.js";
import * as logs from "./logs.js";
import { askKey } from "./operate.js";
import * as overview from "./overview.js";
import { follow, key } from "./stream.js";

/** The first push of a connection holds all that the proxy remembers. */
let afresh = true;
let lostAtMs = null;

function onPush(push) {
  history.remember(push.samples, afresh);
  logs.remember(push, afresh);
  overview.render(push);
  hosts.render(push);
  notice(push.stopping ? "This proxy is stopping: it finishes what it has and takes nothing new." : "");
  setText(byId("forget-key"), "Forget the key");
  byId("forget-key").hidden = key.get() === null;
  afresh = false;
}

function onState({ live, why, again }) {
  const pill = byId("connection");
  pill.className = live ? "pill live" : "pill lost";
  document.body.classList.toggle("old", !live);
  setText(pill, live ? "live" : "disconnected");
  if (live) {
    lostAtMs = null;
    return;
  }
  afresh = true;
  lostAtMs ??= Date.now();
  const next = again === null ? "" : " Trying again.";
  notice(`Disconnected since ${clock(lostAtMs)}: what you see is old. ${why}${next}`);
}

function notice(text) {
  setText(byId("stale"), text);
  byId("stale").hidden = text === "";
}

follow({ onPush, onState, askKey });
