// What errors cost: which stated rate would then be the cheapest.
import { html } from "../vendor.js";
import { number, percent, t } from "../core/text.js";
import { Scroller } from "./scroller.js";

const EMPTY = { escape_cost: "", false_alarm_cost: "1", defect_rate: "" };

/** Stakes as the service takes them; null until all of them are said and make sense. */
export function readStakes(stakes) {
  if (!stakes) return null;
  const escape = Number(stakes.escape_cost);
  const alarm = Number(stakes.false_alarm_cost);
  const share = Number(stakes.defect_rate) / 100;
  if (!(escape > 0 && alarm > 0 && share > 0 && share < 1)) return null;
  return { escape_cost: escape, false_alarm_cost: alarm, defect_rate: share };
}

export function Stakes({ stakes, onChange, preview, onRate }) {
  const values = stakes ?? EMPTY;
  const field = (name) => html`<label class="field"><span>${t(`stakes.${name}`)}</span>
    <input type="number" min="0" step="any" value=${values[name]} onChange=${(event) => onChange({ ...values, [name]: event.target.value })} /></label>`;
  return html`<details class="panel">
    <summary>${t("stakes.title")}</summary>
    <p class="muted">${t("stakes.text")}</p>
    <div class="field-row">${field("escape_cost")}${field("false_alarm_cost")}${field("defect_rate")}</div>
    ${readStakes(stakes) && preview.costs.length > 0 && html`<${Costs} preview=${preview} onRate=${onRate} />`}
  </details>`;
}

function Costs({ preview, onRate }) {
  return html`<${Scroller} label=${t("stakes.table")}><table class="rows">
    <caption>${t("stakes.table")}</caption>
    <thead><tr>${["rate", "threshold", "alarms", "escapes", "cost", "try"].map((name) => html`<th scope="col">${t(`stakes.${name}`)}</th>`)}</tr></thead>
    <tbody>${preview.costs.map(({ trade_off: point, escapes, false_alarms: alarms, cost }) => {
      const isCheapest = point.rate !== null && point.rate === preview.cheapest_rate;
      return html`<tr class=${isCheapest ? "cheapest" : ""}>
        <th scope="row">${point.rate === null ? t("mode.given") : percent(point.rate)}${isCheapest && html` <strong>${t("stakes.cheapest")}</strong>`}</th>
        <td>${number(point.threshold, 3)}</td><td>${number(alarms, 1)}</td><td>${number(escapes, 2)}</td><td>${number(cost, 1)}</td>
        <td>${point.rate !== null && html`<button type="button" onClick=${() => onRate(point.rate)} aria-label=${t("stakes.try_rate", { rate: percent(point.rate) })}>${t("stakes.try")}</button>`}</td>
      </tr>`;
    })}</tbody>
  </table></${Scroller}>`;
}
