// Help: what the views are for, what the words mean, and how a camera sends its pictures.
import { html } from "../vendor.js";
import { t } from "../core/text.js";
import { KeyTable } from "../parts/keytable.js";

const VIEWS = ["wall", "parts", "review", "whatif", "calibrate", "models", "kinds", "train", "cameras", "start", "report"];
const TERMS = ["score", "threshold", "p_value", "map", "false_alarm", "missed", "kind", "mask", "calibration", "certified", "estimated", "drift", "staged"];

export function Help() {
  const example = `curl --data-binary @part.jpg -H "Content-Type: image/jpeg" \\\n  "${location.origin}/score?camera=cam1&part_id=A-1001"`;
  return html`<header class="view-head"><h1>${t("nav.help")}</h1></header>
    <div class="help">
      <section class="panel"><h2>${t("help.views")}</h2>
        <dl class="terms">${VIEWS.map((name) => html`<dt>${t(`nav.${name}`)}</dt><dd>${t(`help.view.${name}`)}</dd>`)}</dl></section>
      <section class="panel"><h2>${t("help.words")}</h2>
        <dl class="terms">${TERMS.map((name) => html`<dt>${t(`term.${name}`)}</dt><dd>${t(`help.term.${name}`)}</dd>`)}</dl></section>
      <section class="panel"><h2>${t("help.send")}</h2><p>${t("help.send_text")}</p><pre tabindex="0"><code>${example}</code></pre>
        <p><a href="/openapi.json">${t("help.api")}</a></p></section>
      <section class="panel"><h2>${t("shell.keys")}</h2><${KeyTable} /></section>
      <section class="panel"><h2>${t("help.limits")}</h2><p>${t("help.limits_text")}</p></section>
    </div>`;
}
