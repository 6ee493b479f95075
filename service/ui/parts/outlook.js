// What a threshold would do, in counts: computed here at once, confirmed by the service a moment later.
import { html } from "../vendor.js";
import { countsHere, countsOf } from "../core/outlook.js";
import { number, percent, t } from "../core/text.js";
import { Thumbs } from "./thumbs.js";

/** `review` is the service's own count of the same threshold, null while it is asked. */
export function Counts({ mine, review, isFailed }) {
  const here = countsHere(mine);
  const there = review && countsOf(review);
  const isSame = there !== null && Object.keys(here).every((name) => here[name] === there[name]);
  const counts = there ?? here;
  const passing = there && !isSame ? review.defects_passing : mine.defectsPassing;
  const of = (part, all) => t("whatif.of", { part, all });
  return html`<section class="panel" aria-label=${t("whatif.counts")}>
    <h2>${t("whatif.of_parts", { n: counts.compared })}</h2>
    <dl class="counts">
      <div><dt>${t("whatif.more_rejected")}</dt><dd>${number(counts.toReject)}</dd></div>
      <div><dt>${t("whatif.more_passed")}</dt><dd>${number(counts.toPass)}</dd></div>
      <div><dt>${t("whatif.rejected_then")}</dt><dd>${number(mine.rejected)} <small>${percent(mine.rejected / Math.max(1, mine.compared))}</small></dd></div>
      <div><dt>${t("whatif.alarms_saved")}</dt><dd>${of(mine.falseAlarmsSaved, mine.falseAlarms)}</dd></div>
      <div class=${counts.passing ? "stands-out" : ""}><dt>${t("whatif.defects_passing")}<br /><small>${t("whatif.defects_all")}</small></dt><dd>${of(counts.passing, counts.defects)}</dd></div>
      ${counts.missed > 0 && html`<div><dt>${t("review_of.missed_found")}</dt><dd>${of(counts.missedFound, counts.missed)}</dd></div>`}
    </dl>
    ${counts.passing > 0 && html`<div class="failed">
      <strong>${t("whatif.defects_would_pass", { n: counts.passing })}</strong>
      <${Thumbs} parts=${passing} label=${t("whatif.defects_would_pass", { n: counts.passing })} />
    </div>`}
    ${mine.defectsWarned > 0 && html`<p class="warned">${t("whatif.defects_warned", { n: mine.defectsWarned })}</p>`}
    <p class="muted check" role="status">${t(`whatif.check_${checkOf(there, isSame, isFailed)}`)}</p>
    ${counts.defects === 0 && html`<p class="muted">${t("whatif.no_defects")}</p>`}
  </section>`;
}

function checkOf(there, isSame, isFailed) {
  if (there === null) return isFailed ? "failed" : "pending";
  return isSame ? "same" : "other";
}

/** What the good parts of the calibration say of it. */
export function Promised({ preview }) {
  if (!preview) return html`<section class="panel"><h2>${t("whatif.promise")}</h2><p class="busy">${t("whatif.check_pending")}</p></section>`;
  const { false_alarms: alarms, synthetic_recall: synthetic, basis } = preview.trade_off;
  return html`<section class="panel"><h2>${t("whatif.promise")}</h2>
    <p>${t(`whatif.alarms_${basis}`, { parts: alarms.parts, mean: number(alarms.mean, 1), low: alarms.low, high: alarms.high })}</p>
    ${synthetic !== null && html`<p class="muted">${t("whatif.synthetic", { share: percent(synthetic) })}</p>`}
    <p class="muted">${t(`statement.mode.${preview.mode}`)}</p>
    ${preview.messages.length > 0 && html`<details><summary>${t("statement.original")}</summary>
      <ul lang="en">${preview.messages.map((message) => html`<li>${message}</li>`)}</ul></details>`}
  </section>`;
}
