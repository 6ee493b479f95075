// Where the reader is: the part of the address behind '#', as #/view/id?name=value.
import { signal } from "../vendor.js";

function read() {
  const [place, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const [view = "", ...rest] = place.split("/");
  return {
    view: view || "wall",
    id: rest.length ? decodeURIComponent(rest.join("/")) : null,
    query: Object.fromEntries(new URLSearchParams(query)),
  };
}

export const route = signal(read());
let shown = location.hash;
const guards = new Set();

/** Whether nobody holds on to this place; who does asks the reader whether to leave all the same. */
export const mayLeave = () => [...guards].every((guard) => guard());

/** Ask `guard` before another place is shown, false meaning "stay"; returns what ends it. */
export function holdOn(guard) {
  guards.add(guard);
  return () => guards.delete(guard);
}

addEventListener("hashchange", () => {
  if (location.hash === shown) return;
  if (mayLeave()) {
    shown = location.hash;
    route.value = read();
  } else {
    history.replaceState(null, "", shown || "#/");
  }
});

/** Address of a view, for a link. */
export function href(view, id = null, query = {}) {
  const asked = new URLSearchParams(
    Object.entries(query).filter(([, value]) => value !== null && value !== undefined && value !== ""),
  ).toString();
  return `#/${view}${id === null ? "" : `/${encodeURIComponent(id)}`}${asked ? `?${asked}` : ""}`;
}

export function go(view, id = null, query = {}) {
  location.hash = href(view, id, query);
}
