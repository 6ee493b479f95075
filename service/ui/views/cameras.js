// Cameras: whether each one still sends what it was calibrated for.
import { html, useEffect } from "../vendor.js";
import { may } from "../core/api.js";
import { cameraKey, cameras, driftOf, drifts, models, now, readCameras, readDrifts } from "../core/live.js";
import { href } from "../core/route.js";
import { moment, number, percent, span, t } from "../core/text.js";
import { Advice, DriftTable, DriftWords } from "../parts/driftwords.js";
import { useEvery } from "../parts/load.js";
import { Busy, Empty } from "../parts/notice.js";
import { Badge } from "../parts/verdict.js";
import { LastPicture, patienceOf } from "./wall.js";

const REREAD_S = 20; // medians move with every part, and no event says so

export function Cameras() {
  const rows = cameras.value && [...cameras.value.values()];
  const read = () => {
    readCameras().catch(() => {}); // the line at the top says what is wrong
    if (models.value) readDrifts().catch(() => {});
  };
  useEffect(read, []);
  useEvery(REREAD_S, read);
  return html`<header class="view-head">
      <h1>${t("nav.cameras")}</h1>
      <a class="button" href=${href("report")}>${t("nav.report")}</a>
    </header>
    ${rows === null
      ? html`<${Busy} />`
      : rows.length === 0
        ? html`<${Empty}>${t("wall.empty")} <a href=${href("help", "score")}>${t("wall.how")}</a></${Empty}>`
        : html`<div class="cameras">${rows.map((row) => html`<${Camera} key=${cameraKey(row.camera)} row=${row} />`)}</div>`}`;
}

const ageOf = (row) => (now.value - new Date(row.last.inspected_at)) / 1000;

// A camera without a name is asked for by an empty one, which `href` would leave out.
const wallOf = (row) => `${href("wall", null, { big: 1 })}&camera=${encodeURIComponent(cameraKey(row.camera))}`;

/** Whether a camera is judged by a calibration of its own or by its model's. */
function calibrationWords({ calibration }) {
  if (!calibration) return "–";
  return t(calibration.is_of_camera ? "cameras.own" : "cameras.models", { mode: t(`mode.${calibration.mode}`) });
}

function Camera({ row }) {
  const name = row.camera ?? t("camera.none");
  const age_s = ageOf(row);
  const isSilent = age_s > patienceOf(row);
  const facts = [
    ["wall.model", html`<bdi>${row.model}</bdi>`],
    ["cameras.calibration", calibrationWords(row)],
    ["cameras.takt", row.takt_s === null ? "–" : span(row.takt_s)],
    ["cameras.parts_hour", number(row.parts)],
    ["wall.ng_rate", row.parts ? t("cameras.ng_of", { share: percent(row.ng / row.parts), ng: row.ng }) : "–"],
  ];
  return html`<article class="panel camera ${isSilent ? "camera-silent" : ""}" aria-label=${name}>
    <header><h2><bdi>${name}</bdi></h2><span class="age">${t("wall.age", { span: span(age_s) })}</span></header>
    <div class="camera-body">
      <a class="camera-picture" href=${href("parts", row.last.result_id)} aria-label=${t("cameras.last", { camera: name })}>
        <${LastPicture} row=${row} />
      </a>
      <div>
        ${isSilent ? html`<p class="silent"><strong>${t("wall.silent", { moment: moment(row.last.inspected_at) })}</strong></p>` : html`<${Badge} verdict=${row.last.verdict} />`}
        <dl class="facts">${facts.map(([key, value]) => html`<div><dt>${t(key)}</dt><dd>${value}</dd></div>`)}</dl>
      </div>
      <${Watched} row=${row} />
    </div>
    <div class="buttons">
      <a class="button" href=${href("parts", null, { camera: row.camera })}>${t("cameras.parts")}</a>
      <a class="button" href=${wallOf(row)}>${t("cameras.wall")}</a>
      ${may("operate") && html`<a class="button" href=${href("calibrate", row.model, { camera: row.camera })}>${t("cameras.calibrate")}</a>`}
      <a class="button" href=${href("report", null, { camera: row.camera })}>${t("nav.report")}</a>
    </div>
  </article>`;
}

function Watched({ row }) {
  const drift = driftOf(row.model, row.camera);
  if (!drift?.parts) return html`<div><h3>${t("wall.drift")}</h3><p class="muted">${t(drifts.value.has(row.model) ? "cameras.not_watched" : "state.loading")}</p></div>`;
  return html`<div class="camera-drift">
    <h3>${t("wall.drift")}</h3>
    ${drift.finding === "none" ? html`<p>${t("drift.none_found")}</p>` : html`<${Advice} finding=${drift.finding} />`}
    <${DriftWords} drift=${drift} />
    <${DriftTable} drift=${drift} />
  </div>`;
}
