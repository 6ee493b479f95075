// The keyboard: one table of actions and keys, which the reader may change.
import { signal, useEffect, useRef } from "../vendor.js";

export const DEFAULTS = {
  good: "g",
  defect: "d",
  confirm: "k",
  undo: "u",
  comment: "c",
  skip: "s",
  next: "ArrowRight",
  previous: "ArrowLeft",
  region_next: "ArrowDown",
  region_previous: "ArrowUp",
  brush: "b",
  hide: "h",
  zoom_in: "+",
  zoom_out: "-",
  zoom_reset: "0",
  help: "?",
};

function load() {
  try {
    return { ...DEFAULTS, ...JSON.parse(localStorage.getItem("maskline.keys") ?? "{}") };
  } catch {
    return { ...DEFAULTS };
  }
}

export const bindings = signal(load());

/** Give an action another key; digits belong to the kinds of defects. False where it is in use. */
export function bind(action, key) {
  const inUse = Object.entries(bindings.value).some(([name, k]) => k === key && name !== action);
  if (inUse || /^[1-9]$/.test(key) || ["Tab", "Enter", " ", "Escape"].includes(key)) return false;
  bindings.value = { ...bindings.value, [action]: key };
  localStorage.setItem("maskline.keys", JSON.stringify(bindings.value));
  return true;
}

export function bindDefaults() {
  bindings.value = { ...DEFAULTS };
  localStorage.removeItem("maskline.keys");
}

const stack = [];

function isWriting(target) {
  return target instanceof HTMLElement && (target.isContentEditable || /^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName));
}

function pressed(event) {
  if (event.ctrlKey || event.altKey || event.metaKey || isWriting(event.target)) return;
  if (document.querySelector("dialog[open]")) return;
  const action = Object.keys(bindings.value).find((name) => bindings.value[name].toLowerCase() === event.key.toLowerCase());
  const name = action ?? (/^[1-9]$/.test(event.key) ? "kind" : null);
  if (!name) return;
  for (const handlers of [...stack].reverse()) {
    if (handlers.current[name]) {
      event.preventDefault();
      handlers.current[name](event);
      return;
    }
  }
}

function released(event) {
  if (event.key.toLowerCase() !== bindings.value.hide.toLowerCase()) return;
  for (const handlers of stack) handlers.current.unhide?.(event);
}

addEventListener("keydown", pressed);
addEventListener("keyup", released);

/**
 * While a component is shown, let keys do what `handlers` says: {action: function}.
 *
 * They are exchanged as the component is drawn, not after it: a key must never mean the part before.
 */
export function useKeys(handlers) {
  const holder = useRef(handlers);
  holder.current = handlers;
  useEffect(() => {
    stack.push(holder);
    return () => {
      stack.splice(stack.indexOf(holder), 1);
    };
  }, []);
}

/** How a key is written for a reader. */
export function keyName(key) {
  return { ArrowRight: "→", ArrowLeft: "←", ArrowDown: "↓", ArrowUp: "↑" }[key] ?? key.toUpperCase();
}
