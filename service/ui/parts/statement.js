// What a calibration promises and what it would change, in the reader's words, from its numbers.
import { html } from "../vendor.js";
import { number, percent, t } from "../core/text.js";
import { Scroller } from "./scroller.js";
import { Thumbs } from "./thumbs.js";

const MOST_NAMED = 10;
const RESULT_ID = /^[0-9a-f]{32}$/;
const UNLIKE_P = 0.001;
const ROUND = [100, 1000, 10_000, 100_000, 1_000_000];

/** A range of shares in whole parts of a round number, rounded outwards. */
function range(low, high) {
  const parts = ROUND.find((size) => high * size >= 2) ?? ROUND.at(-1);
  return { low: Math.floor(low * parts), high: Math.ceil(high * parts), parts };
}

const rateWords = (rate) => (rate >= 1e-4 ? percent(rate) : `1 : ${number(Math.round(1 / rate))}`);
/** How many groups a rate needs before it can be certified. */
const groupsFor = (rate) => Math.ceil(1 / rate) - 1;

function ofThreshold(statement) {
  const rate = { rate: rateWords(statement.false_alarm_rate) };
  const needs = { ...rate, needed: groupsFor(statement.false_alarm_rate) };
  switch (statement.mode) {
    case "certified":
      return t("statement.certified", rate);
    case "estimated":
      return t("statement.estimated", { ...needs, ...range(statement.estimate_low, statement.estimate_high) });
    case "given":
      return t("statement.given");
    default:
      return t("statement.largest", { ...needs, smallest: percent(statement.smallest_certified_rate) });
  }
}

/** The sentences of a statement, the most important first; `isWarning` asks for attention. */
export function sentences(statement) {
  const { expected_alarms: alarms, before } = statement;
  const said = [
    { text: ofThreshold(statement) },
    { text: t("statement.images", { images: statement.images, groups: statement.groups, rate: percent(statement.smallest_certified_rate) }) },
    { text: t("statement.alarms", { parts: alarms.parts, mean: number(alarms.mean, 1), low: alarms.low, high: alarms.high }) },
  ];
  if (statement.warn_threshold !== null) said.push({ text: t("statement.warn", { threshold: number(statement.warn_threshold, 4), rate: percent(statement.warn_rate) }) });
  if (statement.held_out_rate !== null) said.push({ text: t("statement.held_out", { in_sample: percent(statement.in_sample_rate), held_out: percent(statement.held_out_rate) }) });
  if (statement.fold_models) said.push({ text: t("statement.folds", { n: statement.fold_models }) });
  if (statement.roi_share !== null) said.push({ text: t("statement.roi", { share: percent(statement.roi_share) }) });
  if (before) said.push({ text: t("statement.before", { threshold: number(before.threshold, 4), share: percent(before.rejected_before) }) });
  if (before && before.p < UNLIKE_P) said.push({ isWarning: true, text: t("statement.unlike", { median: number(before.median), before: number(before.median_before) }) });
  return said;
}

export function Statement({ statement }) {
  const said = sentences(statement);
  const odd = statement.odd.slice(0, MOST_NAMED);
  return html`<section class="panel"><h2>${t("statement.title")}</h2>
    ${said.filter(({ isWarning }) => isWarning).map(({ text }) => html`<p class="warned"><strong>${text}</strong></p>`)}
    <ul class="sentences">${said.filter(({ isWarning }) => !isWarning).map(({ text }) => html`<li>${text}</li>`)}</ul>
    ${odd.length > 0 && html`<div class="warned"><p>${t("statement.odd", { n: statement.odd.length })}</p><${Odd} names=${odd} count=${statement.odd.length} /></div>`}
    <details><summary>${t("statement.original")}</summary><ul lang="en">${statement.messages.map((message) => html`<li><bdi>${message}</bdi></li>`)}</ul></details>
  </section>`;
}

/** Odd groups: parts where each is a group of its own, else lots or cameras by their names. */
function Odd({ names, count }) {
  const label = t("statement.odd", { n: count });
  if (names.every((name) => RESULT_ID.test(name))) return html`<${Thumbs} parts=${names} count=${count} label=${label} />`;
  return html`<ul aria-label=${label}>${names.map((name) => html`<li><bdi>${name}</bdi></li>`)}</ul>
    ${count > names.length && html`<p>${t("thumbs.more", { n: count - names.length })}</p>`}`;
}

/** Threshold, kind of promise and rate, before and after. */
export function BeforeAfter({ before, statement }) {
  const rows = [
    ["threshold", number(before.threshold, 4), number(statement.threshold, 4)],
    ["mode", t(`mode.${before.mode}`), t(`mode.${statement.mode}`)],
    ["rate", before.mode === "given" ? "–" : percent(before.false_alarm_rate), statement.mode === "given" ? "–" : percent(statement.false_alarm_rate)],
    ["groups", number(before.calibration_groups), number(statement.groups)],
  ];
  return html`<section class="panel"><h2>${t("calibrate.before_after")}</h2><${Scroller} label=${t("calibrate.before_after")}><table class="rows">
    <thead><tr><td></td><th scope="col">${t("calibrate.before")}</th><th scope="col">${t("calibrate.after")}</th></tr></thead>
    <tbody>${rows.map(([name, old, now]) => html`<tr><th scope="row">${t(`calibrate.row.${name}`)}</th><td>${old}</td><td class=${old === now ? "" : "changed"}>${now}</td></tr>`)}</tbody>
  </table></${Scroller}></section>`;
}

/** What a staged version makes of the stored parts; null where nothing is recorded. */
export function Review({ review }) {
  if (!review) return html`<section class="panel"><h2>${t("review_of.title")}</h2><p class="muted">${t("error.nothing_recorded")}</p></section>`;
  const { defects_passing: passing, defects_missing: missing } = review;
  return html`<section class="panel"><h2>${t("review_of.title")}</h2>
    ${passing.length > 0 && html`<div class="failed" role="alert"><strong>${t("whatif.defects_would_pass", { n: passing.length })}</strong>
      <p>${t("review_of.passing")}</p><${Thumbs} parts=${passing} label=${t("whatif.defects_would_pass", { n: passing.length })} /></div>`}
    ${missing.length > 0 && html`<p class="warned"><strong>${t("review_of.missing", { n: missing.length })}</strong></p>`}
    <dl class="counts">
      <div><dt>${t("whatif.more_rejected")}</dt><dd>${t("whatif.of", { part: review.to_reject, all: review.compared })}</dd></div>
      <div><dt>${t("whatif.more_passed")}</dt><dd>${t("whatif.of", { part: review.to_pass, all: review.compared })}</dd></div>
      <div class=${passing.length ? "stands-out" : ""}><dt>${t("whatif.defects_passing")}</dt><dd>${t("whatif.of", { part: passing.length, all: review.defects })}</dd></div>
      <div><dt>${t("review_of.missed_found")}</dt><dd>${t("whatif.of", { part: review.missed_found, all: review.missed })}</dd></div>
    </dl>
    ${review.defects_not_kept > 0 && html`<p class="muted">${t("review_of.not_kept", { n: review.defects_not_kept })}</p>`}
  </section>`;
}
