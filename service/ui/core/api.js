// The public API, and nothing else: whatever the page does, a program can do as well.
import { batch, signal } from "../vendor.js";

/** An answer that is no success; `code` is stable and documented. */
export class ApiError extends Error {
  constructor(status, code, detail, body) {
    super(detail);
    Object.assign(this, { status, code, detail, body });
  }
}

/** Who uses this page: {name, roles, auth}; null before that is known, false where nobody is. */
export const session = signal(null);

/** Whether the key went under an open page; what was written there waits until it is entered anew. */
export const isLocked = signal(false);

function enter(who) {
  batch(() => {
    session.value = who;
    isLocked.value = false;
  });
}

function lapse() {
  if (session.value) isLocked.value = true;
  else session.value = false;
}

/** This tab, as those who share a queue see it: two tabs with one key are two reviewers. */
export const REVIEWER = (() => {
  const id = sessionStorage.getItem("maskline.reviewer") ?? crypto.getRandomValues(new Uint32Array(3)).join("-");
  sessionStorage.setItem("maskline.reviewer", id);
  return id;
})();

export const may = (role) => Boolean(session.value && session.value.roles.includes(role));

/** Build a path with its query; what is empty is left out. */
export function path(parts, query = {}) {
  const text = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    for (const item of Array.isArray(value) ? value : [value]) {
      if (item !== null && item !== undefined && item !== "") text.append(name, item);
    }
  }
  const asked = text.toString();
  return asked ? `${parts}?${asked}` : parts;
}

/** Ask the service; returns JSON (null for an empty answer; a blob where one is asked for), raises `ApiError`. */
export async function ask(method, url, { json, body, headers = {}, signal: abort, asBlob = false } = {}) {
  const isJudged = url.startsWith("/v1/results/") || url.startsWith("/v1/review");
  const request = { method, headers: { ...(isJudged && { "X-Maskline-Reviewer": REVIEWER }), ...headers }, signal: abort };
  if (json !== undefined) {
    request.body = JSON.stringify(json);
    request.headers["Content-Type"] = "application/json";
  } else if (body !== undefined) {
    request.body = body;
  }
  let answer;
  try {
    answer = await fetch(url, request);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, "unreachable", "", null);
  }
  if (answer.ok && asBlob) return answer.blob();
  if (answer.ok) return answer.status === 204 ? null : answer.json();
  const problem = await answer.json().catch(() => ({}));
  if (answer.status === 401 && url !== "/v1/session") lapse();
  throw new ApiError(answer.status, problem.code ?? `http_${answer.status}`, problem.detail ?? "", problem);
}

export const get = (url, options) => ask("GET", url, options);
export const post = (url, json, options = {}) => ask("POST", url, { json: json ?? {}, ...options });
export const put = (url, json) => ask("PUT", url, { json });

/** What a text is as a name of a part, a camera or a defect: the service takes no other signs. */
export const asLabel = (text) => text.trim().replace(/[^\p{L}\p{N}_.:/@+ -]/gu, "_").slice(0, 128);

/** A path segment that is somebody's text. */
export const segment = (text) => encodeURIComponent(text);

/** Learn who uses the page. */
export async function recognise() {
  try {
    enter(await get("/v1/session"));
  } catch (error) {
    if (error.status !== 401) throw error;
    lapse();
  }
}

export async function login(key) {
  enter(await post("/v1/session", { key }));
}

export async function logout() {
  await ask("DELETE", "/v1/session");
  enter(false);
}
