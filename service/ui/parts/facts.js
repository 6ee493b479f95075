// What is known of a part, in words: used wherever one part is shown in full.
import { html } from "../vendor.js";
import { fullMoment, number, percent, t } from "../core/text.js";
import { Excused, isNamed, KindName } from "./kindwords.js";
import { Badge, Said } from "./verdict.js";

/** How many good parts look like this one, in words. */
export function rarity(part, why = null) {
  const rank = why?.p_value;
  if (rank?.groups) return t("part.rarity_counts", { n: Math.round(rank.as_high), groups: rank.groups });
  return part.p_value >= 0.5 ? t("part.rarity_usual") : t("part.rarity", { share: percent(part.p_value) });
}

export function PartHead({ part }) {
  return html`<div class="part-head">
    <${Badge} verdict=${part.verdict} />
    <strong>${t("part.score_of", { score: number(part.score), threshold: number(part.threshold) })}</strong>
    <${Excused} part=${part} />
    <${Said} kind=${part.feedback?.[0]?.kind} defect=${part.feedback?.[0]?.defect} />
  </div>`;
}

export function Facts({ part }) {
  const rows = [
    ["part_id", part.part_id],
    ["camera", part.camera],
    ["lot", part.lot],
    ["program", part.program],
    ["inspected_at", fullMoment(part.inspected_at)],
    ["triggered_at", part.triggered_at && fullMoment(part.triggered_at)],
    ["model", part.model],
    ["version", part.version],
    ["calibration", part.calibration?.slice(0, 12)],
    ["result_id", part.result_id],
  ];
  return html`<dl class="facts facts-wide">
    ${rows.filter(([, value]) => value).map(([name, value]) => html`<div><dt>${t(`part.${name}`)}</dt><dd><bdi>${value}</bdi></dd></div>`)}
  </dl>`;
}

export function RegionTable({ part }) {
  if (!part.regions.length) return html`<p class="muted">${t("part.no_regions")}</p>`;
  const hasKinds = isNamed(part);
  return html`<table class="rows">
    <thead><tr><th>${t("region.number")}</th>${hasKinds && html`<th>${t("kind.kind")}</th>`}<th>${t("region.peak")}</th><th>${t("region.box")}</th><th>${t("region.area")}</th></tr></thead>
    <tbody>
      ${part.regions.map(
        (region, index) => html`<tr>
          <td>${index + 1}</td>${hasKinds && html`<td><${KindName} region=${region} /></td>`}<td>${number(region.peak_score)}</td>
          <td>${region.bbox[2]} × ${region.bbox[3]} @ ${region.bbox[0]}, ${region.bbox[1]}</td><td>${number(region.area_px)}</td>
        </tr>`,
      )}
    </tbody>
  </table>`;
}
