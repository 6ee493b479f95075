// What if: another threshold over the last parts, as a line to drag, before anything is changed.
import { html, useEffect, useMemo, useRef, useState } from "../vendor.js";
import { post, segment } from "../core/api.js";
import { models } from "../core/live.js";
import { outlook, sampleOf } from "../core/outlook.js";
import { rounded } from "../core/scale.js";
import { go, href, route } from "../core/route.js";
import { number, t } from "../core/text.js";
import { ModelAndCamera, modelOf } from "../parts/choice.js";
import { Histogram } from "../parts/histogram.js";
import { Busy, Empty, Failed } from "../parts/notice.js";
import { Counts, Promised } from "../parts/outlook.js";
import { readStakes, Stakes } from "../parts/stakes.js";
import { Thumbs } from "../parts/thumbs.js";

const SIZES = [200, 500, 1000, 2000];
const SETTLE_MS = 350;

/** Ask what a threshold or rate would do; the last question wins. */
function usePreview(name, question, delay_ms) {
  const [state, setState] = useState({ answer: null, error: null, isLoading: true, asked: null });
  const asked = JSON.stringify([name, question]);
  useEffect(() => {
    if (question === null) return undefined;
    const abort = new AbortController();
    setState((old) => ({ ...old, error: null, isLoading: true }));
    const timer = setTimeout(() => {
      post(`/v1/models/${segment(name)}:preview`, question, { signal: abort.signal }).then(
        (answer) => setState({ answer, error: null, isLoading: false, asked }),
        (error) => error.name !== "AbortError" && setState((old) => ({ ...old, error, isLoading: false, asked })),
      );
    }, delay_ms);
    return () => {
      clearTimeout(timer);
      abort.abort();
    };
  }, [asked]);
  return { ...state, isCurrent: state.asked === asked && !state.error };
}

export function WhatIf() {
  const { query } = route.value;
  const model = modelOf(query.model);
  if (!models.value) return html`<h1>${t("nav.whatif")}</h1><${Busy} />`;
  if (!model) return html`<h1>${t("nav.whatif")}</h1><${Empty}>${t("whatif.no_model")}</${Empty}>`;
  const limit = SIZES.includes(Number(query.limit)) ? Number(query.limit) : 500;
  const camera = query.camera ?? "";
  const change = (changes) => go("whatif", null, { model: model.name, camera, limit, ...changes });
  return html`<header class="view-head"><h1>${t("nav.whatif")}</h1><p class="muted">${t("whatif.text")}</p></header>
    <form class="filters" onSubmit=${(event) => event.preventDefault()}>
      <${ModelAndCamera} model=${model} camera=${camera} onChange=${change} />
      <label class="field"><span>${t("whatif.limit")}</span>
        <select value=${limit} onChange=${(event) => change({ limit: event.target.value })}>
          ${SIZES.map((size) => html`<option value=${size}>${number(size)}</option>`)}
        </select></label>
    </form>
    <${Trial} key=${`${model.name}/${model.version}/${camera}/${limit}`} name=${model.name} camera=${camera} limit=${limit} />`;
}

/** One choice of parts: what serves is asked once, everything else by the reader's hand. */
function Trial({ name, camera, limit }) {
  const serving = usePreview(name, { camera: camera || null, limit }, 0);
  if (serving.error) return html`<${Failed} error=${serving.error} />`;
  if (!serving.answer) return html`<${Busy} text=${t("whatif.judging")} />`;
  const sample = sampleOf(serving.answer);
  if (!sample) return html`<${Empty}>${t("error.nothing_recorded")}</${Empty}>`;
  if (!sample.parts.length) return html`<${Empty}>${t("whatif.empty")} <a href=${href("parts")}>${t("nav.parts")}</a></${Empty}>`;
  return html`<${Trying} name=${name} camera=${camera} limit=${limit} serving=${serving.answer} />`;
}

function readTrial(query, serving) {
  if (Number(query.threshold) > 0) return { threshold: Number(query.threshold), rate: null };
  if (Number(query.rate) > 0 && Number(query.rate) < 1) return { threshold: serving.threshold, rate: Number(query.rate) };
  return { threshold: serving.threshold, rate: null };
}

function Trying({ name, camera, limit, serving }) {
  const [trial, setTrial] = useState(() => readTrial(route.value.query, serving));
  const [stakes, setStakes] = useState(null);
  const isServing = trial.rate === null && trial.threshold === serving.threshold;
  const how = trial.rate !== null ? { false_alarm_rate: trial.rate } : isServing ? {} : { threshold: trial.threshold };
  const question = { camera: camera || null, limit, stakes: readStakes(stakes), ...how };
  const confirmed = usePreview(name, question, SETTLE_MS);
  const answer = confirmed.answer ?? serving;
  // A rate's threshold is known once the service has said it.
  useEffect(() => {
    if (trial.rate !== null && confirmed.isCurrent) setTrial((old) => ({ ...old, threshold: confirmed.answer.threshold }));
  }, [confirmed.answer]);

  const sample = useMemo(() => sampleOf(answer), [answer]);
  const threshold = trial.rate !== null && confirmed.isCurrent ? answer.threshold : trial.threshold;
  const mine = useMemo(() => outlook(sample, threshold), [sample, threshold]);
  const settled = useRef(mine);
  if (confirmed.isCurrent) settled.current = mine;
  const query = { model: name, camera, ...(trial.rate !== null ? { rate: trial.rate } : { threshold: trial.threshold }) };
  return html`<div class="trial">
    <section class="panel" aria-labelledby="whatif-scores">
      <h2 id="whatif-scores">${t("whatif.scores")}</h2>
      <${Histogram} sample=${sample} serving=${serving.threshold} tried=${threshold}
        onTry=${(value) => setTrial({ threshold: value, rate: null })} />
      <${Controls} trial=${trial} setTrial=${setTrial} serving=${serving} isServing=${isServing} query=${query} />
      ${confirmed.error && html`<${Failed} error=${confirmed.error} />`}
    </section>
    <div>
      <${Counts} mine=${mine} review=${confirmed.isCurrent ? answer.review : null} isFailed=${confirmed.error !== null} />
      <${Promised} preview=${confirmed.isCurrent ? answer : null} />
    </div>
  </div>
  <${Changes} mine=${settled.current} />
  <${Stakes} stakes=${stakes} onChange=${setStakes} preview=${answer} onRate=${(rate) => setTrial({ ...trial, rate })} />`;
}

/** The threshold in digits, or a rate instead; back to what serves, or on to a calibration. */
function Controls({ trial, setTrial, serving, isServing, query }) {
  const [rate, setRate] = useState("");
  const change = (event) => {
    const threshold = Number(event.target.value);
    if (threshold > 0 && Number.isFinite(threshold)) setTrial({ threshold, rate: null });
  };
  const byRate = (event) => {
    event.preventDefault();
    const share = Number(rate) / 100;
    if (share > 0 && share < 1) setTrial({ ...trial, rate: share });
  };
  return html`<div class="field-row aligned">
    <label class="field"><span>${t("whatif.threshold")}</span>
      <input type="number" min="0" step="any" value=${rounded(trial.threshold)} onChange=${change} /></label>
    <form class="field-row aligned" onSubmit=${byRate}>
      <label class="field"><span>${t("whatif.rate")}</span>
        <input type="number" min="0.0001" max="99" step="any" required value=${rate} onInput=${(event) => setRate(event.target.value)} /></label>
      <button type="submit">${t("whatif.try_rate")}</button>
    </form>
    <button type="button" disabled=${isServing} onClick=${() => setTrial({ threshold: serving.threshold, rate: null })}>${t("whatif.reset")}</button>
    ${isServing ? html`<button type="button" class="primary" disabled>${t("whatif.make_it_so")}</button>` : html`<a class="button primary" href=${href("calibrate", null, query)}>${t("whatif.make_it_so")}</a>`}
  </div>`;
}

/** The parts that change, as the service was last asked: pictures do not follow every pixel. */
function Changes({ mine }) {
  const rows = [
    ["to_pass", mine.toPass],
    ["to_reject", mine.toReject],
  ].filter(([, parts]) => parts.length);
  return html`<section class="panel"><h2>${t("whatif.changes")}</h2>
    ${rows.length === 0 && html`<p class="muted">${t("whatif.no_changes")}</p>`}
    ${rows.map(
      ([name, parts]) => html`<h3>${t(`whatif.${name}`, { n: parts.length })}</h3><${Thumbs} parts=${parts} label=${t(`whatif.${name}`, { n: parts.length })} />`,
    )}
  </section>`;
}
