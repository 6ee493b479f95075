// What a calibration is made of and how it may be wrong, as a form.
import { html } from "../vendor.js";
import { number, percent, t } from "../core/text.js";

const GROUPINGS = ["result_id", "part_id", "lot", "camera"];
const MOST_LABEL = 128;
const NORMALS = ["same", "other"];
const WAYS = ["as_is", "rate", "threshold"];

/** An empty form, or what another view brought along. */
export function startForm({ threshold, rate }) {
  const way = Number(threshold) > 0 ? "threshold" : Number(rate) > 0 ? "rate" : "as_is";
  return {
    lot: "",
    since: "",
    until: "",
    group_by: "result_id",
    limit: "500",
    way,
    normals: way === "as_is" ? "other" : "same",
    rate: way === "rate" ? String(Number((Number(rate) * 100).toPrecision(6))) : "",
    threshold: way === "threshold" ? threshold : "",
    warn: "",
  };
}

const instant = (text) => (text ? new Date(text).toISOString() : null);
const share = (text) => (text === "" ? null : Number(text) / 100);

/** The form as the service takes it: {query, results}. */
export function readForm(form, camera) {
  return {
    query: {
      camera,
      false_alarm_rate: form.way === "rate" ? share(form.rate) : null,
      threshold: form.way === "threshold" ? form.threshold : null,
      warn_rate: movesOnly(form) ? null : share(form.warn),
    },
    results: movesOnly(form) ? "none" : {
      camera: camera || null,
      lot: form.lot.trim() || null,
      since: instant(form.since),
      until: instant(form.until),
      limit: Number(form.limit),
      group_by: form.group_by,
    },
  };
}

/** Whether scores stay as they are, and only the threshold moves. */
export const movesOnly = (form) => form.normals === "same" && form.way !== "as_is";

const changer = (form, onChange) => (name) => (event) => onChange({ ...form, [name]: event.target.value });

export function NormalsFields({ form, onChange }) {
  const change = changer(form, onChange);
  return html`<div class="field-row">
    <label class="field"><span>${t("filter.since")}</span><input type="datetime-local" value=${form.since} onChange=${change("since")} /></label>
    <label class="field"><span>${t("filter.until")}</span><input type="datetime-local" value=${form.until} onChange=${change("until")} /></label>
    <label class="field"><span>${t("part.lot")}</span><input maxlength=${MOST_LABEL} value=${form.lot} onInput=${change("lot")} /></label>
    <label class="field"><span>${t("calibrate.limit")}</span><input type="number" required min="20" max="2000" step="1" value=${form.limit} onInput=${change("limit")} /></label>
    <label class="field"><span>${t("calibrate.group_by")}</span>
      <select value=${form.group_by} onChange=${change("group_by")}>${GROUPINGS.map((name) => html`<option value=${name}>${t(`calibrate.group.${name}`)}</option>`)}</select></label>
  </div>
  <p class="muted">${t("calibrate.group_text")}</p>`;
}

/** `serving` is what judges the camera's parts now. */
export function HowFields({ form, onChange, serving }) {
  const change = changer(form, onChange);
  const asIs = serving.mode === "given" ? t("calibrate.way_as_is_given", { rate: percent(serving.false_alarm_rate) }) : t("calibrate.way_as_is", { rate: percent(serving.false_alarm_rate) });
  return html`<div class="choices" role="radiogroup" aria-label=${t("calibrate.how")}>
      ${WAYS.map((way) => html`<label class="choice"><input type="radio" name="way" checked=${form.way === way} onChange=${() => onChange({ ...form, way })} /><span>${way === "as_is" ? asIs : t(`calibrate.way_${way}`)}</span></label>`)}
    </div>
    <div class="field-row">
      ${form.way === "rate" && html`<label class="field"><span>${t("calibrate.rate")}</span><input type="number" required min="0.0001" max="99" step="any" value=${form.rate} onInput=${change("rate")} /></label>`}
      ${form.way === "threshold" && html`<label class="field"><span>${t("calibrate.threshold", { value: number(serving.threshold, 4) })}</span><input type="number" required min="0.000001" step="any" value=${form.threshold} onInput=${change("threshold")} /></label>`}
      ${!movesOnly(form) && html`<label class="field"><span>${t("calibrate.warn")}</span><input type="number" min="0.0001" max="99" step="any" value=${form.warn} onInput=${change("warn")} /></label>`}
    </div>
    ${form.way !== "as_is" && html`<div class="choices" role="radiogroup" aria-label=${t("calibrate.normals")}>
      ${NORMALS.map((name) => html`<label class="choice"><input type="radio" name="normals" checked=${form.normals === name} onChange=${() => onChange({ ...form, normals: name })} /><span>${t(`calibrate.normals_${name}`)}</span></label>`)}
    </div>`}`;
}
