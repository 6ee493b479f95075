// Parts: everything that was inspected, by any filter; and one part in full.
import { html, useEffect, useState } from "../vendor.js";
import { get, path, segment } from "../core/api.js";
import { on } from "../core/events.js";
import { cameras, models } from "../core/live.js";
import { go, href, route } from "../core/route.js";
import { moment, number, t } from "../core/text.js";
import { Excused, KindLine } from "../parts/kindwords.js";
import { useLoaded } from "../parts/load.js";
import { Busy, Empty, Failed, sayError } from "../parts/notice.js";
import { pictureUrl } from "../parts/picture.js";
import { Badge } from "../parts/verdict.js";
import { ScoreDrop } from "../parts/scoredrop.js";
import { PartDetail } from "./part.js";

const PAGE = 60;
const VERDICTS = ["NG", "WARN", "OK"];
const FEEDBACKS = ["none", "confirmed_defect", "false_alarm", "missed_defect", "confirmed_good"];
const FILTERS = ["verdict", "camera", "model", "feedback", "search", "since", "until"];

export function Parts() {
  return route.value.id === null ? html`<${PartList} />` : html`<${PartDetail} id=${route.value.id} />`;
}

function asked(query) {
  const filter = Object.fromEntries(FILTERS.map((name) => [name, query[name] ?? ""]));
  for (const name of ["since", "until"]) {
    if (filter[name]) filter[name] = new Date(filter[name]).toISOString();
  }
  return filter;
}

/** Pages of results, newest first, to which the next may be added. */
function usePages(query) {
  const url = path("/v1/results", { ...asked(query), limit: PAGE });
  const first = useLoaded(url);
  const [more, setMore] = useState({ url, results: [], cursor: undefined, isLoading: false });
  const later = more.url === url ? more : { url, results: [], cursor: undefined, isLoading: false };
  const cursor = later.cursor === undefined ? (first.data?.cursor ?? null) : later.cursor;
  const load = async () => {
    setMore({ ...later, isLoading: true });
    try {
      const page = await get(path("/v1/results", { ...asked(query), limit: PAGE, cursor }));
      setMore({ url, results: [...later.results, ...page.results], cursor: page.cursor, isLoading: false });
    } catch (error) {
      sayError(error);
      setMore({ ...later, isLoading: false });
    }
  };
  const again = () => {
    setMore({ url, results: [], cursor: undefined, isLoading: false });
    return first.again();
  };
  return { ...first, results: [...(first.data?.results ?? []), ...later.results], hasMore: cursor !== null, load, again };
}

function PartList() {
  const query = route.value.query;
  const pages = usePages(query);
  const [arrived, setArrived] = useState(0);
  useEffect(() => on("inspection", () => setArrived((count) => count + 1)), []);
  useEffect(() => setArrived(0), [pages.data]);
  return html`<header class="view-head">
      <h1>${t("nav.parts")}</h1>
      ${arrived > 0 && html`<button type="button" onClick=${pages.again}>${t("parts.arrived", { n: arrived })}</button>`}
      <a class="button" href=${href("report", null, { camera: query.camera })}>${t("nav.report")}</a>
      <a class="button" href=${path("/v1/results:export", { ...asked(query), search: null, form: "csv" })} download>${t("parts.export")}</a>
    </header>
    <${Filters} query=${query} />
    <${ScoreDrop} />
    ${pages.error && html`<${Failed} error=${pages.error} />`}
    ${!pages.data && pages.isLoading && html`<${Busy} />`}
    ${pages.data && pages.results.length === 0 && html`<${Empty}>${t("parts.empty")}</${Empty}>`}
    <ul class="part-grid">${pages.results.map((part) => html`<${PartCard} key=${part.result_id} part=${part} query=${query} />`)}</ul>
    ${pages.hasMore && html`<button type="button" class="more" onClick=${pages.load}>${t("parts.more")}</button>`}`;
}

function PartCard({ part, query }) {
  return html`<li class="card">
    <a href=${href("parts", part.result_id, query)}>
      <span class="card-picture">
        ${part.kept === false ? html`<span class="no-picture">${t("picture.not_kept_short")}</span>` : html`<img loading="lazy" src=${pictureUrl(part.result_id, 240, true)} alt="" />`}
      </span>
      <span class="card-line"><${Badge} verdict=${part.verdict} /><span>${number(part.score)}</span></span>
      <span class="card-line"><bdi class="ellipsis">${part.part_id ?? part.result_id.slice(0, 8)}</bdi></span>
      <${KindLine} part=${part} /><${Excused} part=${part} />
      <span class="card-line muted"><span>${moment(part.inspected_at)}</span><bdi class="ellipsis">${part.camera ?? ""}</bdi></span>
    </a>
  </li>`;
}

function Filters({ query }) {
  const change = (name) => (event) => go("parts", null, { ...query, [name]: event.target.value });
  const select = (name, values, label) => html`<label class="field">
    <span>${t(`filter.${name}`)}</span>
    <select value=${query[name] ?? ""} onChange=${change(name)}>
      <option value="">${t("filter.any")}</option>
      ${values.map((value) => html`<option value=${value}>${label(value)}</option>`)}
    </select>
  </label>`;
  const cameraNames = [...(cameras.value?.values() ?? [])].map(({ camera }) => camera).filter(Boolean);
  return html`<form class="filters" onSubmit=${(event) => event.preventDefault()}>
    ${select("verdict", VERDICTS, (value) => t(`verdict.${value}`))}
    ${select("camera", cameraNames, (value) => value)}
    ${(models.value?.known.length ?? 0) > 1 && select("model", models.value.known, (value) => value)}
    ${select("feedback", FEEDBACKS, (value) => t(`feedback.${value}`))}
    <label class="field"><span>${t("filter.search")}</span><input type="search" maxlength="128" value=${query.search ?? ""} onChange=${change("search")} /></label>
    <label class="field"><span>${t("filter.since")}</span><input type="datetime-local" value=${query.since ?? ""} onChange=${change("since")} /></label>
    <label class="field"><span>${t("filter.until")}</span><input type="datetime-local" value=${query.until ?? ""} onChange=${change("until")} /></label>
    ${Object.values(query).some(Boolean) && html`<a class="button" href=${href("parts")}>${t("filter.clear")}</a>`}
  </form>`;
}
