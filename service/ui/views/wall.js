// Wall: each camera's last part, to be read from the other end of the hall.
import { html, useEffect, useState } from "../vendor.js";
import { get, segment } from "../core/api.js";
import { cameraKey, cameras, driftOf, models, now } from "../core/live.js";
import { href, route } from "../core/route.js";
import { moment, number, percent, span, t } from "../core/text.js";
import { Busy, Empty } from "../parts/notice.js";
import { pictureUrl } from "../parts/picture.js";
import { Lamp } from "../parts/verdict.js";

const SILENT_TAKTS = 2;
const LEAST_SILENCE_S = 20; // parts that come by the second: not every pause is a silence
const UNKNOWN_TAKT_S = 300;

/** How long a camera may be silent before its tile is grey. */
export const patienceOf = (row) =>
  row.takt_s === null ? UNKNOWN_TAKT_S : Math.max(LEAST_SILENCE_S, SILENT_TAKTS * row.takt_s);

export function Wall() {
  const isBig = route.value.query.big === "1";
  const only = route.value.query.camera;
  const rows = cameras.value && [...cameras.value.values()].filter((row) => only === undefined || cameraKey(row.camera) === only);
  return html`<header class="view-head">
      <h1>${t("nav.wall")}</h1>
      <a class="button" href=${href("wall", null, { big: isBig ? null : 1 })}>${t(isBig ? "wall.small" : "wall.big")}</a>
    </header>
    ${rows === null
      ? html`<${Busy} />`
      : rows.length === 0
        ? html`<${Empty}>${t("wall.empty")} <a href=${href("help", "score")}>${t("wall.how")}</a></${Empty}>`
        : html`<div class="tiles">${rows.map((row) => html`<${Tile} key=${cameraKey(row.camera)} row=${row} />`)}</div>`}`;
}

function Tile({ row }) {
  const finding = driftOf(row.model, row.camera)?.finding ?? "none";
  const age_s = (now.value - new Date(row.last.inspected_at)) / 1000;
  const isSilent = age_s > patienceOf(row);
  const model = models.value?.models.find(({ name }) => name === row.model);
  const name = row.camera ?? t("camera.none");
  return html`<article class="tile ${isSilent ? "tile-silent" : `tile-${row.last.verdict}`}" aria-label=${name}>
    <header><h2><bdi>${name}</bdi></h2><span class="age">${t("wall.age", { span: span(age_s) })}</span></header>
    <a class="tile-picture" href=${href("parts", row.last.result_id)}>
      <${LastPicture} row=${row} />
    </a>
    ${isSilent
      ? html`<p class="silent"><strong>${t("wall.silent", { moment: moment(row.last.inspected_at) })}</strong></p>`
      : html`<${Lamp} verdict=${row.last.verdict} />`}
    <dl class="facts">
      <div><dt>${t("wall.ng_hour")}</dt><dd class=${row.ng ? "stands-out" : ""}>${t("wall.ng_of", { ng: row.ng, parts: row.parts })}</dd></div>
      <div><dt>${t("wall.ng_rate")}</dt><dd>${row.parts ? percent(row.ng / row.parts) : "–"}</dd></div>
      <div><dt>${t("part.score")}</dt><dd>${number(row.last.score)} / ${number(row.last.threshold)}</dd></div>
      <div><dt>${t("wall.drift")}</dt><dd class=${finding === "none" ? "" : "stands-out"}>${t(`drift.${finding}`)}</dd></div>
      <div><dt>${t("wall.model")}</dt><dd><bdi>${row.model}</bdi> ${model ? html`<small>${t(`mode.${model.mode}`)}</small>` : ""}</dd></div>
    </dl>
  </article>`;
}

/** The last part's picture, or the last one that is kept: good parts often are not. */
export function LastPicture({ row }) {
  const [shown, setShown] = useState(null);
  useEffect(() => {
    if (row.last.kept) {
      setShown({ id: row.last.result_id, isLast: true });
    } else if (shown === null) {
      get(`/v1/results?kept=true&limit=1${row.camera ? `&camera=${segment(row.camera)}` : ""}`).then(
        ({ results: [part] }) => setShown(part ? { id: part.result_id, isLast: false } : null),
        () => {},
      );
    } else {
      setShown({ ...shown, isLast: false });
    }
  }, [row.last.result_id]);
  if (!shown) return html`<span class="no-picture">${t("wall.no_picture")}</span>`;
  return html`<img src=${pictureUrl(shown.id, 640, true)} alt=${t("picture.alt", { part: row.last.part_id ?? row.last.result_id.slice(0, 8) })} />
    ${!shown.isLast && html`<span class="picture-note">${t("wall.earlier_picture")}</span>`}`;
}
