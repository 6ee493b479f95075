// What happens in the service, as it happens. After a break the stream goes on where it stopped;
// where that is not possible the service says `gap`, and whoever listens reads anew.
import { signal } from "../vendor.js";
import { isLocked, recognise, session } from "./api.js";

const NAMES = ["inspection", "feedback", "model", "drift", "job", "claim", "state", "gap"];
const AGAIN_MS = 3000;

/** "open", or "lost" while the service does not answer. */
export const connection = signal("lost");

const listeners = new Map(NAMES.map((name) => [name, new Set()]));
let source = null;
let lastId = null;
let timer = null;

/** Call `listener(data)` at each event of this name; returns what ends it. */
export function on(name, listener) {
  listeners.get(name).add(listener);
  return () => listeners.get(name).delete(listener);
}

/** Without a key the stream stays closed: whoever enters one opens it. */
function resume() {
  if (session.value && !isLocked.value) listen();
}

/** Open the stream; calling it again changes nothing. */
export function listen() {
  if (source) return;
  clearTimeout(timer);
  source = new EventSource(lastId ? `/v1/events?last_event_id=${encodeURIComponent(lastId)}` : "/v1/events");
  source.onopen = () => {
    connection.value = "open";
  };
  source.onerror = () => {
    connection.value = "lost";
    // The browser asks again by itself, unless it was refused: then nothing but we would.
    if (source.readyState === EventSource.CLOSED) {
      stopListening();
      timer = setTimeout(() => {
        recognise().then(resume, resume);
      }, AGAIN_MS);
    }
  };
  for (const name of NAMES) {
    source.addEventListener(name, (event) => {
      if (event.lastEventId) lastId = event.lastEventId;
      const data = JSON.parse(event.data);
      for (const listener of listeners.get(name)) listener(data);
    });
  }
}

export function stopListening() {
  source?.close();
  source = null;
  clearTimeout(timer);
}
