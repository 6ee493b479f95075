// Train: from good parts to a model, without a command line.
import { html, useEffect, useState } from "../vendor.js";
import { models, now } from "../core/live.js";
import { href } from "../core/route.js";
import { moment, t } from "../core/text.js";
import { DatasetTable, GoodPartsDrop, NameField } from "../parts/goodparts.js";
import { isActive, jobs, JobState, readJobs } from "../parts/jobs.js";
import { JobWatch } from "../parts/jobwatch.js";
import { KeptParts } from "../parts/keptparts.js";
import { useEvery, useLoaded } from "../parts/load.js";
import { Busy, Empty, errorText, Failed } from "../parts/notice.js";
import { TrainForm } from "../parts/trainform.js";

const REREAD_S = 30; // events say it at once; this is for what they missed
const MOST_PAST = 20;
const FRESH_MS = 43_200_000; // half a day: whoever left it in the evening sees it in the morning

export function Train() {
  const [error, setError] = useState(null);
  const read = () => readJobs().then(() => setError(null), setError);
  useEffect(() => {
    read();
  }, []);
  useEvery(REREAD_S, read);
  const active = (jobs.value ?? []).filter(isActive);
  const ended = (jobs.value ?? []).filter((job) => !isActive(job));
  const isFresh = ended.length > 0 && now.value - new Date(ended[0].ended_at) < FRESH_MS;
  const past = ended.slice(isFresh ? 1 : 0);
  return html`<header class="view-head">
      <h1>${t("nav.train")}</h1>
      <a class="button" href=${href("start")}>${t("nav.start")}</a>
    </header>
    ${error && html`<${Failed} error=${error} />`}
    ${jobs.value === null && !error && html`<${Busy} />`}
    ${active.map((job) => html`<${JobWatch} key=${job.id} job=${job} />`)}
    ${ended.slice(0, isFresh ? 1 : 0).map((job) => html`<${JobWatch} key=${job.id} job=${job}><${After} job=${job} /></${JobWatch}>`)}
    <${Material} />
    ${past.length > 0 && html`<${Past} ended=${past.slice(0, MOST_PAST)} />`}`;
}

/** Where a training that is done leads: the first model serves at once, later ones wait. */
export function After({ job }) {
  if (job.kind !== "training" || job.state !== "done") return null;
  const serves = job.result?.is_serving || models.value?.models.some(({ name, version }) => name === job.model && version === job.result?.version);
  return html`<p>${t(serves ? "train.serves" : "train.staged")}
    ${" "}<a href=${serves ? href("start") : href("models", job.model)}>${t(serves ? "train.to_first" : "train.to_models")}</a></p>`;
}

function Material() {
  const loaded = useLoaded("/v1/datasets");
  const datasets = loaded.data?.datasets ?? [];
  const folders = loaded.data?.folders ?? [];
  const [source, setSource] = useState({ name: null, folder: "" });
  const isFolder = source.name === "";
  const dataset = isFolder ? null : (datasets.find(({ name }) => name === source.name) ?? datasets[0] ?? null);
  const added = (name) => loaded.again().then(() => setSource({ ...source, name }));
  return html`<div class="train">
    <section class="panel">
      <h2>${t("train.sets")}</h2>
      ${loaded.error && html`<${Failed} error=${loaded.error} />`}
      ${loaded.isLoading && !loaded.data && html`<${Busy} />`}
      ${loaded.data && !datasets.length && html`<${Empty}>${t("train.no_sets")}</${Empty}>`}
      ${datasets.length > 0 &&
      html`<${DatasetTable} datasets=${datasets} chosen=${dataset?.name} onChoose=${(name) => setSource({ ...source, name })} onDeleted=${loaded.again} />`}
      ${folders.length > 0 && html`<label class="choice"><input type="radio" name="dataset" checked=${isFolder} onChange=${() => setSource({ ...source, name: "" })} />${t("train.folder")}</label>`}
      ${isFolder && html`<label class="field"><span>${t("train.folder_name")}</span>
        <input value=${source.folder} maxlength="1000" list="train-folders" spellcheck=${false} onInput=${(event) => setSource({ ...source, folder: event.target.value })} /><small>${t("train.folder_text", { folders: folders.join(", ") })}</small></label>
        <datalist id="train-folders">${folders.map((value) => html`<option value=${value}></option>`)}</datalist>`}
      <${More} chosen=${dataset?.name ?? ""} names=${datasets.map(({ name }) => name)} onAdded=${added} />
    </section>
    <section class="panel">
      <h2>${t("train.new")}</h2>
      ${dataset || isFolder
        ? html`<${TrainForm} key=${dataset?.name ?? "folder"} dataset=${dataset} folder=${source.folder.trim()} />`
        : html`<${Empty}>${t("train.first_parts")}</${Empty}>`}
    </section>
  </div>`;
}

/** More good parts, for a set that is there or a new one. */
function More({ chosen, names, onAdded }) {
  const [typed, setTyped] = useState(null);
  const name = typed ?? chosen;
  return html`<h3>${t("train.add")}</h3>
    <${NameField} label=${t("train.add_to")} hint=${t(names.includes(name) ? "train.set_there" : "train.set_new")} list="set-names" name=${name} onName=${setTyped} />
    <datalist id="set-names">${names.map((value) => html`<option value=${value}></option>`)}</datalist>
    <${GoodPartsDrop} name=${name} onAdded=${onAdded} />
    <${KeptParts} name=${name} onAdded=${onAdded} />`;
}

function Past({ ended }) {
  const [open, setOpen] = useState(null);
  return html`<section class="panel"><h2>${t("train.past")}</h2>
    <div class="table-scroll"><table class="rows stacked">
      <thead><tr><th scope="col">${t("job.job")}</th><th scope="col">${t("job.state")}</th><th scope="col">${t("job.ended")}</th><th scope="col">${t("job.by")}</th><th scope="col"><span class="hidden-text">${t("job.more")}</span></th></tr></thead>
      <tbody>${ended.map(
        (job) => html`<tr key=${job.id}>
          <th scope="row"><bdi>${t(`job.kind_${job.kind}`, { model: job.model })}</bdi></th>
          <td class="wraps"><${JobState} job=${job} />${job.error && html`<br /><small>${errorText(job.error)}</small>`}</td>
          <td data-label=${t("job.ended")}>${moment(job.ended_at)}</td><td data-label=${t("job.by")}><bdi>${job.by ?? "–"}</bdi></td>
          <td class="number"><button type="button" class="quiet" aria-expanded=${open === job.id} aria-label=${t("job.more_of", { model: job.model, moment: moment(job.ended_at) })} onClick=${() => setOpen(open === job.id ? null : job.id)}>${t("job.more")}</button></td>
        </tr>`,
      )}</tbody>
    </table></div>
    ${ended.filter(({ id }) => id === open).map((job) => html`<${JobWatch} key=${job.id} job=${job} />`)}
  </section>`;
}
