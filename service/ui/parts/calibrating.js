// A calibration that runs as a job: begun, watched by events and asked for where those are away.
import { html, useEffect, useState } from "../vendor.js";
import { ask, get, path, post, segment } from "../core/api.js";
import { on } from "../core/events.js";
import { number, span, t } from "../core/text.js";
import { isActive } from "./jobs.js";
import { useEvery } from "./load.js";
import { Busy, errorText, Failed, sayError } from "./notice.js";

const ASK_S = 3;

/** Begin one: {job}, or {result} from a service that answers at once. */
export async function calibrate(model, query, body) {
  const url = path(`/v1/models/${segment(model)}:calibrate`, query);
  const answer = await ask("POST", url, { json: body, headers: { Prefer: "respond-async" } });
  return answer.statement ? { result: answer } : { job: answer };
}

/** A job by its id (null: none), for as long as it is shown: {job, error}. */
export function useJob(id) {
  const [state, setState] = useState({ job: null, error: null });
  const read = () =>
    get(`/v1/jobs/${segment(id)}`).then(
      (job) => setState({ job, error: null }),
      (error) => setState((old) => ({ ...old, error })),
    );
  useEffect(() => {
    setState({ job: null, error: null });
    if (id) read();
    return on("job", (job) => job.id === id && setState({ job, error: null }));
  }, [id]);
  useEvery(ASK_S, () => id && (!state.job || isActive(state.job)) && read());
  return state.job?.id === id ? state : { job: null, error: state.error };
}

export function JobProgress({ job, error }) {
  if (!job && error?.status === 404) return html`<p class="warned">${t("calibrating.lost")}</p>`;
  if (!job) return error ? html`<${Failed} error=${error} />` : html`<${Busy} />`;
  if (job.state === "failed") return html`<p class="failed" role="alert">${t("calibrating.failed")} ${errorText(job.error ?? {})}</p>`;
  if (job.state === "stopped") return html`<p class="warned" role="status">${t("calibrating.stopped")}</p>`;
  if (job.state === "done") return null;
  const { done, total, left_s: left } = job.progress;
  const stage = job.state === "waiting" ? "waiting" : total && done >= total ? "fitting" : "looking";
  return html`<section class="panel" aria-label=${t("calibrating.title")}>
    <h2>${t("calibrating.title")}</h2>
    <p role="status">${t(`calibrating.${stage}`)}</p>
    <progress max=${total ?? 1} value=${total ? done : null} aria-label=${t("calibrating.title")}></progress>
    <p class="muted">${total ? t("calibrating.done_of", { done: number(done), total: number(total) }) : ""} ${left ? t("calibrating.left", { span: span(left) }) : ""}</p>
    <p class="muted">${t("calibrating.survives")}</p>
    <button type="button" class="danger" onClick=${() => post(`/v1/jobs/${segment(job.id)}:stop`).catch(sayError)}>${t("calibrating.stop")}</button>
  </section>`;
}
