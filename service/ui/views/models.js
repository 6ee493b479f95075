// Models: which version serves, which waits, which went before; and who switched when.
import { html, useEffect, useState } from "../vendor.js";
import { path, post, segment } from "../core/api.js";
import { on } from "../core/events.js";
import { models, readModels } from "../core/live.js";
import { go, href, route } from "../core/route.js";
import { hasText, moment, number, percent, t } from "../core/text.js";
import { useLoaded } from "../parts/load.js";
import { Busy, Empty, Failed, say, sayError } from "../parts/notice.js";
import { Scroller } from "../parts/scroller.js";
import { SwitchDialog } from "../parts/switching.js";

const MOST_ROWS = 100;
const RESULT_ID = /^[0-9a-f]{32}$/;
const RATES = ["false_alarm_rate", "warn_rate", "roi_share"];
const HIDDEN = ["version", "digest"]; // they have a column, or say nothing to a reader

export function Models() {
  const [switching, setSwitching] = useState(null);
  const known = models.value?.known ?? [];
  useEffect(() => {
    readModels().catch(sayError);
  }, []);
  return html`<header class="view-head"><h1>${t("nav.models")}</h1><p class="muted">${t("models.text")}</p></header>
    ${!models.value && html`<${Busy} />`}
    ${models.value && !known.length && html`<${Empty}>${t("models.empty")} <a href=${href("train")}>${t("nav.train")}</a></${Empty}>`}
    <div class="models">${known.map((name) => html`<${ModelPanel} key=${name} name=${name} onSwitch=${setSwitching} />`)}</div>
    ${known.length > 0 && html`<${Trail} known=${known} />`}
    ${switching && html`<${SwitchDialog} ...${switching} onClose=${() => setSwitching(null)} />`}`;
}

function ModelPanel({ name, onSwitch }) {
  const model = models.value.models.find((row) => row.name === name);
  const broken = models.value.broken.find((row) => row.name === name);
  const versions = models.value.versions.find((row) => row.name === name);
  return html`<section class="panel model" aria-labelledby=${`model-${name}`}>
    <h2 id=${`model-${name}`}><bdi>${name}</bdi>${model?.is_default && html` <small>${t("models.default")}</small>`}</h2>
    ${broken && html`<p class="failed"><strong>${t("models.broken")}</strong> <code>${broken.code}</code><br /><bdi>${broken.detail}</bdi></p>`}
    ${!broken && !model && html`<p class="muted">${t("models.not_loaded")}</p>`}
    <${Versions} name=${name} versions=${versions} onSwitch=${onSwitch} />
    ${model && html`<${About} model=${model} /><${Calibrations} model=${model} />`}
  </section>`;
}

function Versions({ name, versions, onSwitch }) {
  const [isLoading, setLoading] = useState(false);
  const load = async () => {
    setLoading(true);
    try {
      const { staged } = await post(`/v1/models/${segment(name)}:load`);
      await readModels().catch(() => {}); // the event that says so is on its way as well
      say(t("models.loaded", { version: staged }));
    } catch (error) {
      sayError(error);
    }
    setLoading(false);
  };
  const button = (action, version, look) => html`<button type="button" class=${look} aria-label=${`${t(`switch.do_${action}`)}: ${name}`}
    onClick=${() => onSwitch({ action, model: name, version, serving: versions.active })}>${t(`switch.do_${action}`)}</button>`;
  return html`<dl class="versions">
      <div><dt>${t("models.active")}</dt><dd><bdi>${versions.active ?? "–"}</bdi></dd></div>
      <div class=${versions.staged ? "waiting" : ""}><dt>${t("models.staged")}</dt><dd><bdi>${versions.staged ?? "–"}</bdi>
        ${versions.staged && html`<span class="buttons">${button("activate", versions.staged, "primary")}${button("discard", versions.staged, "")}</span>`}</dd></div>
      <div><dt>${t("models.previous")}</dt><dd><bdi>${versions.previous ?? "–"}</bdi>
        ${versions.previous && html`<span class="buttons">${button("rollback", versions.previous, "")}</span>`}</dd></div>
    </dl>
    <div class="buttons">
      <button type="button" disabled=${isLoading} aria-label=${`${t("models.load")}: ${name}`} onClick=${load}>${t(isLoading ? "models.loading" : "models.load")}</button>
      ${versions.active && html`<a class="button" href=${href("calibrate", null, { model: name })}>${t("nav.calibrate")}</a><a class="button" href=${href("whatif", null, { model: name })}>${t("nav.whatif")}</a><a class="button" href=${href("kinds", name)}>${t("nav.kinds")}</a>`}
    </div>`;
}

function About({ model }) {
  const rows = [
    ["promise", t(`statement.mode.${model.mode}`)],
    ["rate", model.mode === "given" ? "–" : percent(model.false_alarm_rate)],
    ["smallest", percent(model.smallest_false_alarm_rate)],
    ["calibrated_on", t("models.images_groups", { images: model.calibration_images, groups: model.calibration_groups })],
    ["canvas", t("models.pixels", { side: model.canvas })],
    ["engine", model.engine],
  ];
  return html`<dl class="facts facts-wide">${rows.map(([key, value]) => html`<div><dt>${t(`models.${key}`)}</dt><dd><bdi>${value}</bdi></dd></div>`)}</dl>`;
}

/** The model's own calibration, and that of each camera that has another. */
function Calibrations({ model }) {
  const rows = [{ ...model, camera: null }, ...(model.camera_calibrations ?? [])];
  return html`<${Scroller} label=${t("models.calibrations")}><table class="rows">
    <caption>${t("models.calibrations")}</caption>
    <thead><tr>${["camera", "threshold", "mode", "rate"].map((key) => html`<th scope="col">${t(`models.col.${key}`)}</th>`)}</tr></thead>
    <tbody>${rows.map(
      (row) => html`<tr><th scope="row">${row.camera === null ? t(model.cameras.length ? "models.all_others" : "models.all_cameras") : html`<bdi class="clip">${row.camera}</bdi>`}</th>
        <td>${number(row.threshold, 4)}</td><td>${t(`mode.${row.mode}`)}</td><td>${row.mode === "given" ? "–" : percent(row.false_alarm_rate)}</td></tr>`,
    )}</tbody>
  </table></${Scroller}>`;
}

/** Who switched when, newest first, of one model or of all. */
function Trail({ known }) {
  const subject = route.value.query.subject ?? "";
  const trail = useLoaded(path("/v1/audit", { limit: MOST_ROWS, subject }));
  useEffect(() => on("model", trail.again), [trail.again]);
  return html`<section class="panel" aria-labelledby="trail"><h2 id="trail">${t("audit.title")}</h2>
    <div class="filters"><label class="field"><span>${t("filter.model")}</span>
      <select value=${subject} onChange=${(event) => go("models", null, { subject: event.target.value })}>
        <option value="">${t("audit.all")}</option>${known.map((name) => html`<option value=${name}>${name}</option>`)}
      </select></label></div>
    ${trail.error && html`<${Failed} error=${trail.error} />`}
    ${!trail.data && trail.isLoading && html`<${Busy} />`}
    ${trail.data && (trail.data.rows.length ? html`<${TrailTable} rows=${trail.data.rows} />` : html`<${Empty}>${t("audit.empty")}</${Empty}>`)}
  </section>`;
}

function TrailTable({ rows }) {
  const actionText = (action) => (hasText(`audit.action.${action}`) ? t(`audit.action.${action}`) : action);
  return html`<${Scroller} label=${t("audit.title")}><table class="rows trail">
    <thead><tr>${["at", "by", "action", "subject", "details"].map((key) => html`<th scope="col">${t(`audit.${key}`)}</th>`)}</tr></thead>
    <tbody>${rows.map(
      (row) => html`<tr key=${row.number}><td>${moment(row.at)}</td><td><bdi class="clip">${row.by ?? "–"}</bdi></td><td>${actionText(row.action)}</td>
        <td><${Subject} subject=${row.subject} /></td><td><${Details} details=${row.details} /></td></tr>`,
    )}</tbody>
  </table></${Scroller}>
  ${rows.length === MOST_ROWS && html`<p class="muted">${t("audit.more", { n: MOST_ROWS })}</p>`}`;
}

/** A model by its name, or a part, which can be looked at. */
const Subject = ({ subject }) =>
  RESULT_ID.test(subject) ? html`<a href=${href("parts", subject)}>${subject.slice(0, 8)}</a>` : html`<bdi class="clip">${subject}</bdi>`;

/** What is sealed with a change: what a reader knows by name in words, the rest as it is. */
function Details({ details }) {
  const told = Object.entries(details).filter(([name, value]) => !HIDDEN.includes(name) && value !== null && value !== "" && value !== false);
  return html`${details.version && html`<bdi>${details.version}</bdi>`}
    ${told.length > 0 && html`<ul class="details">${told.map(([name, value]) => html`<li><span class="muted">${hasText(`audit.detail.${name}`) ? t(`audit.detail.${name}`) : name}:</span> <bdi>${detail(name, value)}</bdi></li>`)}</ul>`}`;
}

function detail(name, value) {
  if (RATES.includes(name)) return percent(value);
  if (name === "mode" && hasText(`mode.${value}`)) return t(`mode.${value}`);
  if (name === "kind" && hasText(`feedback.${value}`)) return t(`feedback.${value}`);
  if (name === "rule" && hasText(`kinds.rule.${value}`)) return t(`kinds.rule.${value}`);
  if (typeof value === "number") return number(value, 4);
  if (value === true) return t("audit.yes");
  return typeof value === "string" ? value : JSON.stringify(value);
}
