// The story of one request, as `gpu-bridge explain` tells it.

import { byId, setText } from "./dom.js";
import { detailOf, headers } from "./stream.js";

const dialog = byId("story");

/** Shows what became of the request of this id. */
export async function show(id) {
  setText(byId("story-text"), "Asking the proxy …");
  dialog.showModal();
  setText(byId("story-text"), await story(id));
}

async function story(id) {
  try {
    const path = `api/v1/requests/${encodeURIComponent(id)}`;
    const response = await fetch(path, { headers: { ...headers(), Accept: "text/plain" } });
    return response.ok ? await response.text() : await detailOf(response);
  } catch {
    return "The proxy can't be reached.";
  }
}

byId("story-close").addEventListener("click", () => dialog.close());
