// The keys and what they do, each of which may be another one.
import { html, useState } from "../vendor.js";
import { bind, bindDefaults, bindings, DEFAULTS, keyName } from "../core/keys.js";
import { t } from "../core/text.js";

export function KeyTable() {
  const [asking, setAsking] = useState(null);
  const [refused, setRefused] = useState(null);
  const listen = (action) => (event) => {
    if (asking !== action) return;
    event.preventDefault();
    event.stopPropagation();
    if (event.key === "Shift") return;
    if (event.key !== "Escape" && !bind(action, event.key)) setRefused(event.key);
    else setRefused(null);
    setAsking(null);
  };
  return html`<table class="keys">
      <caption class="hidden-text">${t("shell.keys")}</caption>
      <tbody>
        ${Object.keys(DEFAULTS).map(
          (action) => html`<tr>
            <th scope="row">${t(`keys.${action}`)}</th>
            <td><button type="button" class="key" aria-label=${t("keys.change", { action: t(`keys.${action}`) })}
              onClick=${() => setAsking(action)} onKeyDown=${listen(action)}>${asking === action ? t("keys.press") : html`<kbd>${keyName(bindings.value[action])}</kbd>`}</button></td>
          </tr>`,
        )}
        <tr><th scope="row">${t("keys.kind")}</th><td><kbd>1</kbd> … <kbd>9</kbd></td></tr>
      </tbody>
    </table>
    ${refused && html`<p class="failed" role="alert">${t("keys.refused", { key: keyName(refused) })}</p>`}
    <button type="button" onClick=${bindDefaults}>${t("keys.defaults")}</button>`;
}
