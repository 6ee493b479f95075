// First run: good parts in, train, what the threshold promises, a first verdict; step by step.
import { html, useEffect, useRef, useState } from "../vendor.js";
import { may } from "../core/api.js";
import { cameras, models, readModels } from "../core/live.js";
import { href } from "../core/route.js";
import { t } from "../core/text.js";
import { PartHead, rarity, RegionTable } from "../parts/facts.js";
import { GoodPartsDrop, NameField } from "../parts/goodparts.js";
import { isActive, jobs, readJobs } from "../parts/jobs.js";
import { JobWatch } from "../parts/jobwatch.js";
import { useEvery, useLoaded } from "../parts/load.js";
import { Busy, errorText, Failed } from "../parts/notice.js";
import { OpacitySlider, Picture, useZoom, ZoomButtons } from "../parts/picture.js";
import { FEWEST_PARTS, FIRM_PARTS } from "../parts/rates.js";
import { ScoreDrop } from "../parts/scoredrop.js";
import { Promised } from "../parts/promise.js";
import { Advice, TrainForm } from "../parts/trainform.js";

const REREAD_S = 15;
const SHOWABLE = new Set(["image/jpeg", "image/png", "image/webp", "image/bmp"]); // by every browser
const STEPS = [
  ["parts", PartsStep],
  ["train", TrainStep],
  ["promise", PromiseStep],
  ["verdict", VerdictStep],
];

/** The set that somebody added to last; null without any. */
const latest = (datasets) => [...datasets].sort((a, b) => (a.updated_at < b.updated_at ? 1 : -1))[0] ?? null;

export function Start() {
  const sets = useLoaded("/v1/datasets");
  const [name, setName] = useState("");
  const [isReady, setReady] = useState(null); // what somebody said here; null before that
  const [scored, setScored] = useState(null);
  const [error, setError] = useState(null);
  const read = () => {
    readJobs().then(() => setError(null), setError);
    if (!models.value?.models.length) readModels().catch(() => {}); // an event may have been missed
  };
  useEffect(() => {
    read();
  }, []);
  useEvery(REREAD_S, read);

  const trainings = (jobs.value ?? []).filter(({ kind }) => kind === "training");
  const datasets = sets.data?.datasets ?? [];
  const dataset = datasets.find((set) => set.name === name) ?? (name ? null : latest(datasets));
  const model = models.value?.models.find((entry) => entry.name === trainings[0]?.model) ?? models.value?.models[0] ?? null;
  const isDone = {
    parts: (isReady ?? trainings.length > 0) || trainings.some(isActive) || model !== null,
    train: model !== null,
    promise: model !== null,
    verdict: scored !== null || (cameras.value?.size ?? 0) > 0,
  };
  const now = STEPS.map(([key]) => key).find((key) => !isDone[key]);
  const shared = { sets, dataset, name, setName, setReady, training: trainings[0] ?? null, model, scored, setScored };
  if (error && jobs.value === null) return html`<h1>${t("nav.start")}</h1><${Failed} error=${error} />`;
  if (!models.value || jobs.value === null || (!sets.data && sets.isLoading)) return html`<h1>${t("nav.start")}</h1><${Busy} />`;
  return html`<header class="view-head"><h1>${t("nav.start")}</h1></header>
    <p>${t("start.text")}</p>
    <p class="hidden-text" role="status">${now && t("start.now", { number: STEPS.findIndex(([key]) => key === now) + 1, step: t(`start.${now}`) })}</p>
    <ol class="steps">
      ${STEPS.map(([key, component], index) => html`<${Step} key=${key} number=${index + 1} name=${key} isNow=${key === now} isDone=${isDone[key]}><${component} ...${shared} isNow=${key === now} isDone=${isDone[key]} /></${Step}>`)}
    </ol>`;
}

function Step({ number: place, name, isNow, isDone, children }) {
  const state = isNow ? "now" : isDone ? "done" : "later";
  const heading = useRef(null);
  const wasNow = useRef(isNow);
  useEffect(() => {
    // The button that led here is gone: whoever used the keyboard goes on at this step.
    if (isNow && !wasNow.current && document.activeElement === document.body) heading.current.focus();
    wasNow.current = isNow;
  }, [isNow]);
  return html`<li class="panel step step-${state}" aria-current=${isNow ? "step" : null}>
    <h2 ref=${heading} tabindex="-1"><span class="step-number" aria-hidden="true">${isDone && !isNow ? "✓" : place}</span> ${t(`start.${name}`)} <small class="step-state">${t(`step.${state}`)}</small></h2>
    ${children}
  </li>`;
}

function PartsStep({ sets, dataset, name, setName, setReady, isNow }) {
  const shown = name || dataset?.name || "";
  if (!isNow) return dataset ? html`<p class="muted">${t("start.parts_in", { n: dataset.images, name: dataset.name })}</p>` : null;
  const added = (uploaded) => sets.again().then(() => setName(uploaded));
  const isEnough = dataset !== null && dataset.images >= FEWEST_PARTS;
  return html`<p>${t("start.parts_text", { fewest: FEWEST_PARTS, firm: FIRM_PARTS })}</p>
    ${sets.error && html`<${Failed} error=${sets.error} />`}
    <${NameField} label=${t("start.product")} hint=${t("start.product_hint")} name=${shown} onName=${setName} />
    <${GoodPartsDrop} name=${shown} onAdded=${added} />
    ${dataset && html`<p><strong>${t("start.parts_in", { n: dataset.images, name: dataset.name })}</strong></p><${Advice} parts=${dataset.images} />`}
    ${isEnough && html`<button type="button" class="primary" onClick=${() => setReady(true)}>${t("start.enough")}</button>`}`;
}

function TrainStep({ dataset, training, setReady, isNow, isDone }) {
  if (isDone) return html`<p class="muted">${t("start.trained")} ${training?.state === "done" && html`<a href=${href("train")}>${t("start.to_training")}</a>`}</p>`;
  if (!isNow) return html`<p class="muted">${t("start.train_later")}</p>`;
  if (training && isActive(training)) return html`<${JobWatch} job=${training} />`;
  // Done, and its model is on its way: the service finds it by itself.
  if (training?.state === "done") return html`<p class="busy" role="status">${t("start.loading_model")}</p>`;
  return html`${training && html`<${JobWatch} job=${training} />`}
    <p>${t("start.train_text")}</p>
    ${dataset ? html`<${TrainForm} dataset=${dataset} />` : html`<p class="muted">${t("train.first_parts")}</p>`}
    <button type="button" class="quiet" onClick=${() => setReady(false)}>${t("start.back_to_parts")}</button>`;
}

function PromiseStep({ model, isDone }) {
  if (!isDone) return html`<p class="muted">${t("start.promise_later")}</p>`;
  return html`<${Promised} calibration=${model} />`;
}

function VerdictStep({ model, scored, setScored }) {
  if (model === null) return html`<p class="muted">${t("start.verdict_later")}</p>`;
  if (!may("score")) return html`<p class="warned">${t("start.verdict_role")}</p>`;
  const take = (answer, file) => setScored({ part: answer, source: SHOWABLE.has(file.type) ? URL.createObjectURL(file) : null });
  return html`<p>${t("start.verdict_text")}</p>
    <${ScoreDrop} onScored=${take} />
    ${scored && html`<${FirstVerdict} key=${scored.part.result_id} part=${scored.part} source=${scored.source} />`}`;
}

function FirstVerdict({ part, source }) {
  const [opacity, setOpacity] = useState(0.7);
  const zoom = useZoom();
  useEffect(() => () => source && URL.revokeObjectURL(source), [source]);
  return html`<div class="part" role="region" aria-label=${t("start.verdict")}>
      <div>
        <${Picture} result=${part} opacity=${opacity} zoom=${zoom} source=${source}
          tools=${html`<div class="picture-tools"><${ZoomButtons} zoom=${zoom} /><${OpacitySlider} opacity=${opacity} onChange=${setOpacity} /></div>`} />
      </div>
      <div>
        <${PartHead} part=${part} />
        <p>${rarity(part)}</p>
        ${part.input?.warnings.map((warning) => html`<p class="warned">${errorText({ code: warning.code, detail: warning.text })}</p>`)}
        <${RegionTable} part=${part} />
        <p><a href=${href("parts", part.result_id)}>${t("review.all")}</a></p>
        <h3>${t("start.next")}</h3>
        <ul class="plain-list">
          <li><a href=${href("help", "score")}>${t("wall.how")}</a></li>
          <li><a href=${href("wall")}>${t("start.to_wall")}</a></li>
          <li><a href=${href("review")}>${t("start.to_review")}</a></li>
        </ul>
      </div>
    </div>`;
}
