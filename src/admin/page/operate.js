// What an operator can do: asks first, then does it, and says what came of it.

import { byId, element, setText } from "./dom.js";
import { detailOf, headers, key } from "./stream.js";

const dialog = byId("confirm");
let pending = null;

/** Shows what is about to happen; on yes, sends it. `done` gets the answer. */
export function confirm({ title, text, yes, path, done = () => {} }) {
  pending = { path, done };
  setText(byId("confirm-title"), title);
  setText(byId("confirm-text"), text);
  setText(byId("confirm-yes"), yes);
  setText(byId("confirm-problem"), "");
  dialog.showModal();
}

byId("confirm-no").addEventListener("click", () => dialog.close());

dialog.querySelector("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const yes = byId("confirm-yes");
  yes.disabled = true;
  const { path, done } = pending;
  const { problem, answer } = await send(path);
  yes.disabled = false;
  if (problem === undefined) {
    dialog.close();
    done(answer);
  } else {
    setText(byId("confirm-problem"), problem);
  }
});

/** Asks before the file is read again, and shows what that changed. */
byId("reload").addEventListener("click", () =>
  confirm({
    title: "Reload the configuration?",
    text: "The file is read again. If anything is wrong with it, all stays as it is.",
    yes: "Reload",
    path: "api/v1/reload",
    done: report,
  }),
);

function report({ changes, needs_restart }) {
  const lines = changes.length > 0 ? [...changes] : ["Nothing is different."];
  if (needs_restart) lines.push("A part of it takes effect after a restart only.");
  byId("report-lines").replaceChildren(...lines.map((line) => element("li", {}, line)));
  byId("report").showModal();
}

byId("report-close").addEventListener("click", () => byId("report").close());

/** Returns the answer, or the problem that there was. */
async function send(path) {
  try {
    // The mark shows that no other web page sent this.
    const marked = { ...headers(), "X-Gpu-Bridge": "1" };
    const response = await fetch(path, { method: "POST", headers: marked });
    if (!response.ok) return { problem: await detailOf(response) };
    return { answer: await response.json() };
  } catch {
    return { problem: "The proxy can't be reached." };
  }
}

/** Asks for the admin key; resolves once there is one. */
export function askKey(wrong) {
  const ask = byId("ask-key");
  const field = byId("key");
  setText(byId("ask-key-problem"), wrong ? "That is not the key." : "");
  key.forget();
  field.value = "";
  setText(byId("forget-key"), "Enter the admin key");
  byId("forget-key").hidden = false;
  if (!ask.open) ask.showModal();
  field.focus();
  return new Promise((resolve) => {
    ask.querySelector("form").onsubmit = (event) => {
      event.preventDefault();
      key.set(field.value);
      field.value = "";
      ask.close();
      resolve();
    };
  });
}

/** Back to the question for the key, which may have been closed. */
byId("forget-key").addEventListener("click", () => {
  key.forget();
  location.reload();
});
