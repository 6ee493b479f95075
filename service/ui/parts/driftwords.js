// What the watch over a camera says, in words: how pictures differ from those of the calibration.
import { html } from "../vendor.js";
import { hasText, moment, number, percent, t } from "../core/text.js";

const LEAST_CHANGE = 0.03; // less than that nobody sees
const MUCH_PSI = 0.25;
const LOGARITHMS = new Set(["sharpness", "red", "blue"]); // that is how the service measures these
const SEEN = ["brightness", "contrast", "sharpness", "red", "blue"];

/** How much larger a statistic is than at calibration, as a share; null before the first part. */
export function change({ name, now, before }) {
  if (now === null) return null;
  if (LOGARITHMS.has(name)) return Math.exp(now - before) - 1;
  return before === 0 ? null : now / before - 1;
}

/** "27 % darker than at calibration". */
export function changeWords(statistic) {
  const share = change(statistic);
  if (share === null) return t("change.unknown");
  if (Math.abs(share) < LEAST_CHANGE) return t(`change.${statistic.name}.same`);
  return t(`change.${statistic.name}.${share > 0 ? "more" : "less"}`, { share: percent(Math.round(Math.abs(share) * 100) / 100) });
}

const isChanged = ({ since, psi }) => since !== null || (psi ?? 0) > MUCH_PSI;

/** Brightness and sharpness always; whatever else changed as well. */
export function DriftWords({ drift }) {
  const said = drift.statistics.filter((row) => SEEN.includes(row.name) && (row.name === "brightness" || row.name === "sharpness" || isChanged(row)));
  return html`<ul class="plain-list drift-words">
    ${said.map((row) => html`<li class=${isChanged(row) ? "drift-changed" : ""}>${isChanged(row) && html`<span aria-hidden="true">▲ </span>`}${changeWords(row)}${row.since && html` <small>${t("drift.since", { moment: moment(row.since) })}</small>`}</li>`)}
  </ul>`;
}

export const Advice = ({ finding }) => html`<p class="warned"><strong class="finding">${t(`drift.${finding}`)}.</strong> ${t(`drift.advice_${finding}`)}</p>`;

/** All figures of the watch, for whoever wants them. */
export function DriftTable({ drift }) {
  return html`<details>
    <summary>${t("drift.figures")}</summary>
    <div class="table-scroll" role="group" tabindex="0" aria-label=${t("drift.figures")}><table class="rows">
      <caption>${t("drift.after", { n: drift.parts })}</caption>
      <thead><tr><th scope="col">${t("drift.statistic")}</th><th scope="col" class="number">${t("drift.before")}</th><th scope="col" class="number">${t("drift.now")}</th><th scope="col" class="number">${t("drift.psi")}</th><th scope="col">${t("drift.when")}</th></tr></thead>
      <tbody>${drift.statistics.map(
        (row) => html`<tr>
          <th scope="row">${hasText(`statistic.${row.name}`) ? t(`statistic.${row.name}`) : row.name}</th>
          <td class="number">${number(row.before, 3)}</td><td class="number">${number(row.now, 3)}</td>
          <td class="number">${row.psi === null ? t("drift.too_few") : number(row.psi, 2)}</td><td>${row.since ? moment(row.since) : "–"}</td>
        </tr>`,
      )}</tbody>
    </table></div>
    <p class="muted">${t("drift.psi_text")}</p>
  </details>`;
}
