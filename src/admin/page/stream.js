// The stream of pushes, for ever: reads server-sent events with fetch, since an EventSource can't
// send a key, and connects again whenever the stream ends or falls silent.

const PATH = "api/v1/events";
const KEY = "gpu-bridge-admin-key";
/** The proxy pushes once a second: after this long without a word it is gone. */
const SILENCE_MS = 5000;
const RETRY_MS = [250, 1000, 2000, 5000];

export const key = {
  get: () => sessionStorage.getItem(KEY),
  set: (value) => sessionStorage.setItem(KEY, value),
  forget: () => sessionStorage.removeItem(KEY),
};

/** What every request to the proxy carries. */
export function headers() {
  const known = key.get();
  return known === null ? {} : { Authorization: `Bearer ${known}` };
}

/** What a refusal says, for people. */
export async function detailOf(response) {
  try {
    return (await response.json()).detail;
  } catch {
    return `The proxy answered ${response.status}.`;
  }
}

/**
 * Calls `onPush` for each push and `onState` with what becomes of the connection:
 * `{live: true}`, or `{live: false, why, again}` with the milliseconds until the next try.
 * `askKey(wrong)` resolves once there is a key to try.
 */
export async function follow({ onPush, onState, askKey }) {
  for (let failures = 0; ; failures += 1) {
    let why;
    try {
      why = await connection((push) => {
        failures = 0;
        onState({ live: true });
        onPush(push);
      });
    } catch (error) {
      if (error instanceof KeyNeeded) {
        onState({ live: false, why: error.message, again: null });
        await askKey(key.get() !== null);
        failures = -1;
        continue;
      }
      why = error.message;
    }
    const again = RETRY_MS[Math.min(failures, RETRY_MS.length - 1)];
    onState({ live: false, why, again });
    await new Promise((resume) => setTimeout(resume, again));
  }
}

class KeyNeeded extends Error {}

/** One connection; returns why it ended. */
async function connection(onPush) {
  const abort = new AbortController();
  let silence;
  const watch = () => {
    clearTimeout(silence);
    silence = setTimeout(() => abort.abort(), SILENCE_MS);
  };
  watch();
  try {
    const response = await fetch(PATH, { headers: headers(), signal: abort.signal });
    if (response.status === 401) throw new KeyNeeded(await detailOf(response));
    if (!response.ok) return await detailOf(response);
    await read(response.body, onPush, watch);
    return "The proxy ended the connection.";
  } catch (error) {
    if (error instanceof KeyNeeded) throw error;
    return abort.signal.aborted ? "The proxy is silent." : "The proxy can't be reached.";
  } finally {
    clearTimeout(silence);
    abort.abort();
  }
}

/** Takes events apart: lines, of which those of data count, ended by an empty one. */
async function read(body, onPush, onBytes) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    onBytes();
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    for (const event of events) {
      const data = event.split("\n").filter((line) => line.startsWith("data:"));
      if (data.length > 0) onPush(JSON.parse(data.map((line) => line.slice(5)).join("\n")));
    }
  }
}
