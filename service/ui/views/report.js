// Report: a shift on one page, to read and to print; this view only chooses which.
import { html, useState } from "../vendor.js";
import { path } from "../core/api.js";
import { cameras } from "../core/live.js";
import { route } from "../core/route.js";
import { language, t } from "../core/text.js";

const DAY_MS = 86_400_000;
const PERIODS = ["shift", "today", "yesterday", "own"];

/** A local date, as the service takes one. */
function day(moment) {
  const two = (value) => String(value).padStart(2, "0");
  return `${moment.getFullYear()}-${two(moment.getMonth() + 1)}-${two(moment.getDate())}`;
}

function period(name, own) {
  const today = new Date();
  const yesterday = day(new Date(today - DAY_MS));
  return {
    shift: { since: "8h", until: "now" },
    today: { since: day(today), until: "now" },
    yesterday: { since: yesterday, until: yesterday },
    own: { since: own.since, until: own.until || "now" },
  }[name];
}

export function Report() {
  const [name, setName] = useState("shift");
  const [own, setOwn] = useState({ since: "", until: "" });
  const [camera, setCamera] = useState(route.value.query.camera ?? "");
  const [lot, setLot] = useState(route.value.query.lot ?? "");
  const names = [...new Set([...(cameras.value?.values() ?? [])].map((row) => row.camera).concat(camera))].filter(Boolean);
  const isBackwards = name === "own" && own.since && own.until && own.since >= own.until;
  const isMissing = name === "own" && !own.since;
  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
  const address = path("/v1/report", { ...period(name, own), camera, lot: lot.trim(), language: language.value, zone });
  return html`<header class="view-head"><h1>${t("nav.report")}</h1></header>
    <section class="panel report">
      <p>${t("report.text")}</p>
      <fieldset class="choices">
        <legend>${t("report.period")}</legend>
        ${PERIODS.map((value) => html`<label class="choice"><input type="radio" name="period" value=${value} checked=${name === value} onChange=${() => setName(value)} />${t(`report.${value}`)}</label>`)}
      </fieldset>
      ${name === "own" &&
      html`<div class="field-row">
        <label class="field"><span>${t("filter.since")}</span><input type="datetime-local" required value=${own.since} onInput=${(event) => setOwn({ ...own, since: event.target.value })} /></label>
        <label class="field"><span>${t("filter.until")}</span><input type="datetime-local" value=${own.until} onInput=${(event) => setOwn({ ...own, until: event.target.value })} /><small>${t("report.until_now")}</small></label>
      </div>`}
      <div class="field-row">
        <label class="field"><span>${t("filter.camera")}</span><select value=${camera} onChange=${(event) => setCamera(event.target.value)}>
          <option value="">${t("filter.any")}</option>${names.map((value) => html`<option value=${value}>${value}</option>`)}</select></label>
        <label class="field grow"><span>${t("part.lot")}</span><input maxlength="128" placeholder=${t("filter.any")} value=${lot} onInput=${(event) => setLot(event.target.value)} /></label>
      </div>
      ${isBackwards && html`<p class="failed" role="alert">${t("report.backwards")}</p>`}
      ${isMissing && html`<p class="muted">${t("report.since_first")}</p>`}
      ${isBackwards || isMissing
        ? html`<button type="button" class="primary" disabled>${t("report.open")}</button>`
        : html`<a class="button primary" target="_blank" rel="noopener" href=${address}>${t("report.open")}</a>`}
      <p class="muted">${t("report.print")}</p>
    </section>`;
}
