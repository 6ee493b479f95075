// Which model and which camera: the two choices that several views begin with.
import { html } from "../vendor.js";
import { cameras, models } from "../core/live.js";
import { t } from "../core/text.js";

/** The model that is meant: the one asked for, else the default one, else the first. */
export function modelOf(name) {
  const all = models.value?.models ?? [];
  return all.find((model) => model.name === name) ?? all.find((model) => model.is_default) ?? all[0] ?? null;
}

/** Cameras that sent parts to a model lately, or have a calibration of their own. */
export function cameraNames(model) {
  const seen = [...(cameras.value?.values() ?? [])].filter((row) => row.camera && row.model === model?.name);
  return [...new Set([...seen.map((row) => row.camera), ...(model?.cameras ?? [])])].sort();
}

/** What judges a camera's parts: its own calibration, or the model's. */
export const calibrationOf = (model, camera) =>
  model?.camera_calibrations?.find((row) => row.camera === camera) ?? model;

export function ModelAndCamera({ model, camera, onChange }) {
  const names = cameraNames(model);
  if (camera && !names.includes(camera)) names.push(camera);
  return html`<label class="field"><span>${t("filter.model")}</span>
      <select value=${model.name} onChange=${(event) => onChange({ model: event.target.value, camera: "" })}>
        ${models.value.models.map(({ name }) => html`<option value=${name}>${name}</option>`)}
      </select></label>
    <label class="field"><span>${t("filter.camera")}</span>
      <select value=${camera} onChange=${(event) => onChange({ model: model.name, camera: event.target.value })}>
        <option value="">${t("choice.without_own")}</option>
        ${names.map((name) => html`<option value=${name}>${name}${model.cameras.includes(name) ? ` · ${t("choice.own")}` : ""}</option>`)}
      </select></label>`;
}
