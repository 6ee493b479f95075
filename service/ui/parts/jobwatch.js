// One job as it runs: what it does now, how far it is, how long it will take; and how it ended.
import { html, useEffect, useRef, useState } from "../vendor.js";
import { segment } from "../core/api.js";
import { moment, number, span, t } from "../core/text.js";
import { courses, isActive, JobState, resumeJob, STAGES, stageIndex, stopJob } from "./jobs.js";
import { Line } from "./line.js";
import { useEvery } from "./load.js";
import { Dialog, errorText, sayError } from "./notice.js";
import { Promised } from "./promise.js";

const LOG_EVERY_S = 5;
const MOST_LOG_LETTERS = 20_000;

export function JobWatch({ job, children }) {
  const course = courses.value.get(job.id);
  const title = t(`job.kind_${job.kind}`, { model: job.model });
  return html`<section class="panel job" aria-label=${title}>
    <div class="job-head"><h2><bdi>${title}</bdi></h2><span role="status"><${JobState} job=${job} /></span></div>
    ${job.state === "waiting" && html`<p>${t("job.waits")}</p>`}
    ${job.state === "running" && html`<${Running} job=${job} course=${course} />`}
    ${isActive(job) && html`<p class="muted">${t("job.survives")}</p>`}
    ${!isActive(job) && html`<${Ended} job=${job} />`}
    ${children}
    ${(course?.losses.length ?? 0) > 1 && html`<${Line} title=${t("job.loss")} values=${course.losses} />`}
    <${JobButtons} job=${job} />
    ${job.kind === "training" && job.state !== "waiting" && html`<${Log} job=${job} />`}
  </section>`;
}

function Running({ job, course }) {
  const { stage, done, total, images_per_s: pace, left_s: left } = job.progress;
  const now = stageIndex(stage);
  // Parts that are few train further models, so that each is tested by one that has not seen it.
  const place = Math.max(now, course?.furthest ?? -1);
  const name = place >= 0 ? t(`stage.${STAGES[place][0]}`) : stage || t("job.starts");
  const facts = [
    ["job.pace", pace && t("job.pace_of", { pace: number(pace, 1) })],
    ["job.left", left !== null && span(left)],
    ["job.begun", moment(job.started_at)],
  ];
  return html`${job.kind === "training" &&
    html`<ol class="stages">
      ${STAGES.map(
        ([key], index) => html`<li class=${index < place ? "stage-done" : index === place ? "stage-now" : ""} aria-current=${index === place ? "step" : null}>
          <span aria-hidden="true">${index < place ? "✓" : index === place ? "▸" : "·"}</span> ${t(`stage.${key}`)}
          <span class="hidden-text">${t(index < place ? "step.done" : index === place ? "step.now" : "step.later")}</span></li>`,
      )}
    </ol>
    ${place > now && now >= 0 && html`<p class="muted">${t("stage.again")}</p>`}`}
    <label class="job-bar">${name}${total && now === place ? ` · ${t("job.done_of", { done, total })}` : ""}
      <progress max=${total ?? 1} value=${total ? done : null}></progress></label>
    <dl class="facts">${facts.filter(([, value]) => value).map(([key, value]) => html`<div><dt>${t(key)}</dt><dd>${value}</dd></div>`)}</dl>`;
}

function Ended({ job }) {
  const took = job.started_at && job.ended_at ? (new Date(job.ended_at) - new Date(job.started_at)) / 1000 : null;
  return html`<p role="status">${t(`job.ended_${job.state}`, { moment: moment(job.ended_at) })} ${took !== null && t("job.took", { span: span(took) })}</p>
    ${job.error && html`<p class="failed" role="alert">${errorText(job.error)}</p>`}
    ${job.kind === "training" && job.result && html`<${Outcome} result=${job.result} />`}`;
}

/** What a training made, and what that promises. */
function Outcome({ result }) {
  return html`<dl class="facts">
      <div><dt>${t("job.trained_on")}</dt><dd>${number(result.training_images)}</dd></div>
      <div><dt>${t("job.tested_on")}</dt><dd>${number(result.calibration_groups)}</dd></div>
      <div><dt>${t("term.threshold")}</dt><dd>${number(result.threshold)}</dd></div>
    </dl>
    <${Promised} calibration=${result} />
    ${result.messages.map((message) => html`<p class="warned">${message}</p>`)}`;
}

function JobButtons({ job }) {
  const [asks, setAsks] = useState(false);
  const [isStopping, setStopping] = useState(false);
  const isTraining = job.kind === "training";
  const mayResume = isTraining && (job.state === "stopped" || job.state === "failed");
  const stop = () => {
    setAsks(false);
    setStopping(true); // it ends within seconds, and an event says so
    stopJob(job).catch((error) => {
      setStopping(false);
      sayError(error);
    });
  };
  useEffect(() => {
    if (!isActive(job)) setStopping(false);
  }, [job.state]);
  return html`<div class="buttons">
    ${mayResume && html`<button type="button" onClick=${() => resumeJob(job).catch(sayError)}>${t("job.resume")}</button>`}
    ${isActive(job) && html`<button type="button" class="danger" disabled=${isStopping} onClick=${() => setAsks(true)}>${t(isStopping ? "job.stopping" : "job.stop")}</button>`}
    ${asks &&
    html`<${Dialog} title=${t("job.stop")} onClose=${() => setAsks(false)}>
      <p>${t(isTraining ? "job.stop_text" : "job.stop_calibration")}</p>
      <div class="buttons"><button type="button" class="danger" onClick=${stop}>${t("job.stop")}</button><button type="button" onClick=${() => setAsks(false)}>${t("job.let_run")}</button></div>
    </${Dialog}>`}
  </div>`;
}

/** The end of what the training writes, read while it is open. */
function Log({ job }) {
  const [state, setState] = useState({ isOpen: false, text: "" });
  const body = useRef(null);
  const read = async () => {
    if (!state.isOpen) return;
    try {
      const answer = await fetch(`/v1/jobs/${segment(job.id)}/log`);
      const text = answer.ok ? (await answer.text()).slice(-MOST_LOG_LETTERS) : t("job.no_log");
      setState((old) => ({ ...old, text }));
    } catch {
      // the line at the top says that the service is away
    }
  };
  useEffect(() => {
    read();
  }, [state.isOpen, job.state]);
  useEvery(LOG_EVERY_S, () => job.state === "running" && read());
  useEffect(() => {
    if (body.current) body.current.scrollTop = body.current.scrollHeight;
  }, [state.text]);
  return html`<details onToggle=${(event) => setState({ ...state, isOpen: event.target.open })}>
    <summary>${t("job.log")}</summary>
    ${state.isOpen && html`<pre class="log" ref=${body} tabindex="0" aria-label=${t("job.log")}>${state.text || t("state.loading")}</pre>`}
  </details>`;
}
