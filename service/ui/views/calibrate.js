// Calibrate: a new threshold from good parts, what it promises and changes, and letting it serve.
import { html, useEffect, useState } from "../vendor.js";
import { get, path } from "../core/api.js";
import { models, readModels } from "../core/live.js";
import { go, href, route } from "../core/route.js";
import { t } from "../core/text.js";
import { calibrate, JobProgress, useJob } from "../parts/calibrating.js";
import { isActive } from "../parts/jobs.js";
import { calibrationOf, ModelAndCamera, modelOf } from "../parts/choice.js";
import { HowFields, movesOnly, NormalsFields, readForm, startForm } from "../parts/calibrationform.js";
import { Busy, Empty, Failed, sayError } from "../parts/notice.js";
import { PolygonEditor, roiOf, usePolygons } from "../parts/polygon.js";
import { pictureUrl } from "../parts/picture.js";
import { BeforeAfter, Review, Statement } from "../parts/statement.js";
import { SwitchDialog } from "../parts/switching.js";

const FORM = "calibration";
const REGIONS = ["as_is", "all", "drawn"];
const MOST_PICTURES = 12;

export function Calibrate() {
  const { query, id } = route.value;
  const model = modelOf(query.model);
  if (!models.value) return html`<h1>${t("nav.calibrate")}</h1><${Busy} />`;
  if (!model) return html`<h1>${t("nav.calibrate")}</h1><${Empty}>${t("whatif.no_model")}</${Empty}>`;
  return html`<header class="view-head"><h1>${t("nav.calibrate")}</h1><p class="muted">${t("calibrate.text")}</p>
      ${id && html`<a class="button" href=${href("calibrate", null, query)}>${t("calibrate.new")}</a>`}</header>
    ${id ? html`<${Watched} key=${id} id=${id} />` : html`<${Form} key=${model.name} model=${model} camera=${query.camera ?? ""} />`}`;
}

/** The last calibration that still runs, so that who comes back finds it. */
function useRunning() {
  const [running, setRunning] = useState(null);
  useEffect(() => {
    get("/v1/jobs").then(
      ({ jobs }) => setRunning(jobs.find((job) => job.kind === "calibration" && isActive(job)) ?? null),
      () => {}, // a service without jobs answers at once
    );
  }, []);
  return running;
}

function Form({ model, camera }) {
  const [form, setForm] = useState(() => startForm(route.value.query));
  const [region, setRegion] = useState("as_is");
  const [state, setState] = useState({ isBusy: false, error: null, result: null });
  const editor = usePolygons();
  const running = useRunning();
  const drawn = region === "drawn" ? roiOf(editor.polygons) : null;
  const isReady = !state.isBusy && (movesOnly(form) || region !== "drawn" || drawn !== null);
  const start = async (event) => {
    event.preventDefault();
    setState({ isBusy: true, error: null, result: null });
    try {
      const { query, results } = readForm(form, camera);
      const roi = movesOnly(form) ? null : region === "all" ? "none" : drawn;
      const begun = await calibrate(model.name, query, { results, ...(roi && { roi }) });
      if (begun.job) go("calibrate", begun.job.id, { model: model.name, camera });
      setState({ isBusy: false, error: null, result: begun.result ?? null });
    } catch (error) {
      setState({ isBusy: false, error, result: null });
    }
  };
  const change = (choice) => go("calibrate", null, { ...route.value.query, ...choice });
  return html`${running && html`<p class="warned">${t("calibrate.runs")} <a href=${href("calibrate", running.id, { model: running.model })}>${t("calibrate.look")}</a></p>`}
    <div class="calibrate">
      <form id=${FORM} class="panel" onSubmit=${start}>
        <h2>${t("calibrate.how")}</h2>
        <div class="field-row"><${ModelAndCamera} model=${model} camera=${camera} onChange=${change} /></div>
        <${HowFields} form=${form} onChange=${setForm} serving=${calibrationOf(model, camera)} />
        ${!movesOnly(form) && html`<h2>${t("calibrate.parts")}</h2>
        <p class="muted">${t("calibrate.parts_text")}</p>
        <${NormalsFields} form=${form} onChange=${setForm} />`}
      </form>
      ${!movesOnly(form) && html`<section class="panel"><h2>${t("calibrate.region")}</h2>
        <div class="choices" role="radiogroup" aria-label=${t("calibrate.region")}>
          ${REGIONS.map((name) => html`<label class="choice"><input type="radio" name="region" checked=${region === name} onChange=${() => setRegion(name)} /><span>${t(`calibrate.region_${name}`)}</span></label>`)}
        </div>
        ${region === "drawn" && html`<${Region} model=${model.name} camera=${camera} editor=${editor} />`}
        ${region === "drawn" && !drawn && html`<p class="muted" role="status">${t("calibrate.region_missing")}</p>`}
      </section>`}
    </div>
    ${state.error && html`<${Failed} error=${state.error} />`}
    <div class="buttons start"><button type="submit" form=${FORM} class="primary" disabled=${!isReady}>${t(state.isBusy ? "calibrate.starting" : "calibrate.start")}</button>
      <p class="muted">${t("calibrate.nothing_changes")}</p></div>
    ${state.result && html`<${Result} result=${state.result} model=${model.name} camera=${camera} />`}`;
}

/** The kept pictures of a camera, on one of which the region is drawn. */
function Region({ model, camera, editor }) {
  const [state, setState] = useState({ parts: null, error: null, at: 0 });
  useEffect(() => {
    get(path("/v1/results", { model, camera, kept: true, limit: MOST_PICTURES })).then(
      ({ results }) => setState({ parts: results, error: null, at: 0 }),
      (error) => setState({ parts: null, error, at: 0 }),
    );
  }, [model, camera]);
  if (state.error) return html`<${Failed} error=${state.error} />`;
  if (!state.parts) return html`<${Busy} />`;
  if (!state.parts.length) return html`<${Empty}>${t("calibrate.no_picture")}</${Empty}>`;
  const source = pictureUrl(state.parts[state.at].result_id, 1024);
  return html`<${PolygonEditor} key=${source} source=${source} editor=${editor} />
    ${state.parts.length > 1 && html`<button type="button" onClick=${() => setState({ ...state, at: (state.at + 1) % state.parts.length })}>${t("calibrate.other_picture")}</button>`}`;
}

function Watched({ id }) {
  const { job, error } = useJob(id);
  return html`<${JobProgress} job=${job} error=${error} />
    ${job?.result && html`<${Result} result=${job.result} model=${job.model} camera=${route.value.query.camera ?? ""} />`}`;
}

/** What came of it; `before` stays what served when this was first looked at. */
function Result({ result, model, camera }) {
  const served = models.value.models.find(({ name }) => name === model);
  // An event says that a version waits, too; but not where there are none just now.
  const [isRead, setRead] = useState(false);
  useEffect(() => {
    readModels().then(() => setRead(true), sayError);
  }, []);
  const versions = (isRead && models.value.versions.find(({ name }) => name === model)) || result.versions;
  const [before] = useState(() => (served?.version === result.version ? null : calibrationOf(served, camera)));
  const [action, setAction] = useState(null);
  const isServing = versions.active === result.version;
  const isWaiting = versions.staged === result.version;
  const version = action === "rollback" ? versions.previous : result.version;
  return html`<section class="panel" aria-label=${t("calibrate.result")}>
      <h2>${t("calibrate.result")}</h2>
      <p role="status">${t(isServing ? "calibrate.serves" : isWaiting ? (result.normals ? "calibrate.waits" : "calibrate.waits_moved") : "calibrate.gone", { version: result.version, n: result.normals })}</p>
      <div class="buttons">
        ${isWaiting && html`<button type="button" class="primary" onClick=${() => setAction("activate")}>${t("action.activate")}</button>
          <button type="button" onClick=${() => setAction("discard")}>${t("switch.do_discard")}</button>`}
        ${isServing && versions.previous && html`<button type="button" onClick=${() => setAction("rollback")}>${t("switch.do_rollback")}</button>`}
        <a class="button" href=${href("models")}>${t("nav.models")}</a>
      </div>
    </section>
    <div class="results">
      <${Review} review=${result.review} />
      <div>${before && html`<${BeforeAfter} before=${before} statement=${result.statement} />`}
        <${Statement} statement=${result.statement} /></div>
    </div>
    ${action && html`<${SwitchDialog} action=${action} model=${model} version=${version} serving=${versions.active} onClose=${() => setAction(null)} />`}`;
}
