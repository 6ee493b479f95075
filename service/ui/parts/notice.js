// What went wrong, is on its way, or was done; and a dialog that asks.
import { html, signal, useEffect, useRef } from "../vendor.js";
import { hasText, t } from "../core/text.js";

const notices = signal([]);
let count = 0;

/** Say something for some seconds; `undo` adds a button. */
export function say(text, { undo = null, isError = false, seconds = 6 } = {}) {
  count += 1;
  const notice = { id: count, text, undo, isError };
  notices.value = [...notices.value.slice(-3), notice];
  setTimeout(() => close(notice.id), seconds * 1000);
}

function close(id) {
  notices.value = notices.value.filter((notice) => notice.id !== id);
}

/** An error in the reader's language where it is a common one, else as the service says it. */
export function errorText(error) {
  const key = `error.${error.code}`;
  if (error.code && hasText(key)) return t(key, { detail: error.detail });
  return error.detail || error.message || t("error.unknown");
}

export const sayError = (error) => say(errorText(error), { isError: true, seconds: 10 });

export function Notices() {
  return html`<div class="notices" role="status" aria-live="polite">
    ${notices.value.map(
      (notice) => html`<div key=${notice.id} class="notice ${notice.isError ? "notice-error" : ""}">
        <span>${notice.text}</span>
        ${notice.undo &&
        html`<button type="button" onClick=${() => {
          close(notice.id);
          notice.undo();
        }}>${t("action.undo")}</button>`}
        <button type="button" class="quiet" aria-label=${t("action.close")} onClick=${() => close(notice.id)}>×</button>
      </div>`,
    )}
  </div>`;
}

export const Busy = ({ text }) => html`<p class="busy" role="status">${text ?? t("state.loading")}</p>`;
export const Failed = ({ error }) => html`<p class="failed" role="alert">${errorText(error)}</p>`;
export const Empty = ({ children }) => html`<p class="empty">${children}</p>`;

/** A modal dialog, open for as long as it is drawn. */
export function Dialog({ title, onClose, children }) {
  const dialog = useRef(null);
  useEffect(() => {
    const element = dialog.current;
    element.showModal();
    return () => element.close();
  }, []);
  return html`<dialog ref=${dialog} aria-label=${title} onCancel=${(event) => {
    event.preventDefault();
    onClose();
  }}>
    <header class="dialog-head">
      <h2>${title}</h2>
      <button type="button" class="quiet" aria-label=${t("action.close")} onClick=${onClose}>×</button>
    </header>
    ${children}
  </dialog>`;
}
