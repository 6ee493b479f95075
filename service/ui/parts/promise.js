// What a threshold promises of good parts, in sentences.
import { html } from "../vendor.js";
import { number, percent, t } from "../core/text.js";
import { rateWords } from "./rates.js";

/** `calibration` has `mode`, `false_alarm_rate` and `calibration_groups`, as models and trainings do. */
export function Promised({ calibration: { mode, false_alarm_rate: share, calibration_groups: groups } }) {
  const rate = rateWords(share);
  return html`<p><strong>${t(`promise.${mode}`, { rate })}</strong></p>
    <p>${t(`promise.${mode}_means`, { parts: number(groups), least: percent(1 / (groups + 1)) })}</p>
    ${mode !== "given" && html`<p class="muted">${t("promise.not", { rate })}</p>`}`;
}
