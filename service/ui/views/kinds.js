// Kinds of defects that a model has learned from what people said; and each line's rules for them.
import { html, useEffect, useState } from "../vendor.js";
import { may, segment } from "../core/api.js";
import { on } from "../core/events.js";
import { models } from "../core/live.js";
import { go, href, route } from "../core/route.js";
import { fullMoment, number, percent, t } from "../core/text.js";
import { modelOf } from "../parts/choice.js";
import { KindDialog } from "../parts/kinddialog.js";
import { useLoaded } from "../parts/load.js";
import { Busy, Empty, Failed } from "../parts/notice.js";
import { Scroller } from "../parts/scroller.js";

export function Kinds() {
  const known = models.value?.known ?? [];
  const model = route.value.id ?? modelOf(null)?.name ?? null;
  return html`<header class="view-head"><h1>${t("nav.kinds")}</h1><p class="muted">${t("kinds.text")}</p>
      ${known.length > 1 && html`<label class="compact-field"><span>${t("filter.model")}</span>
        <select value=${model} onChange=${(event) => go("kinds", event.target.value)}>${known.map((name) => html`<option value=${name}>${name}</option>`)}</select></label>`}
      ${may("operate") && html`<a class="button" href=${href("models")}>${t("nav.models")}</a>`}
    </header>
    ${!models.value && html`<${Busy} />`}
    ${models.value && !model && html`<${Empty}>${t("models.empty")}</${Empty}>`}
    ${model && html`<${OfModel} key=${model} model=${model} />`}`;
}

function OfModel({ model }) {
  const loaded = useLoaded(`/v1/models/${segment(model)}/kinds`);
  const [editing, setEditing] = useState(null);
  useEffect(() => on("model", loaded.again), [loaded.again]);
  if (loaded.error) return html`<${Failed} error=${loaded.error} />`;
  if (!loaded.data) return html`<${Busy} />`;
  const { kinds } = loaded.data;
  // Of two names, the one with fewer examples is the likelier to be misspelt.
  const count = (name) => kinds.find(({ kind }) => kind === name)?.examples ?? 0;
  const pairs = loaded.data.similar.map(({ kind, like }) => (count(kind) > count(like) ? { kind: like, like: kind } : { kind, like }));
  const rowOf = (kind) => kinds.find((row) => row.kind === kind) ?? { kind, examples: 0, parts: 0, rule: "none", same_as: null };
  return html`<section class="panel" aria-labelledby="kinds-title"><h2 id="kinds-title"><bdi>${model}</bdi></h2>
      ${kinds.length ? html`<${Table} kinds=${kinds} onEdit=${setEditing} />` : html`<${Empty}>${t("kinds.empty")}</${Empty}>`}
      <p class="muted">${t("kinds.unknown", { share: percent(loaded.data.unknown_below) })}</p>
      <${Learned} learned=${loaded.data} />
    </section>
    <${Similar} rows=${pairs} onMerge=${(kind, like) => setEditing({ ...rowOf(kind), proposed: like })} />
    <${LeftOut} learned=${loaded.data} />
    ${editing && html`<${KindDialog} model=${model} row=${editing} names=${kinds.map(({ kind }) => kind)} onClose=${() => setEditing(null)} onDone=${loaded.again} />`}`;
}

function Table({ kinds, onEdit }) {
  const isAdmin = may("admin");
  return html`<${Scroller} label=${t("kinds.table")}><table class="rows">
    <caption>${t("kinds.table")}</caption>
    <thead><tr>${["kind", "examples", "parts", "rule", "same_as"].map((key) => html`<th scope="col">${t(`kinds.col.${key}`)}</th>`)}${isAdmin && html`<td></td>`}</tr></thead>
    <tbody>${kinds.map(
      (row) => html`<tr key=${row.kind}><th scope="row"><bdi class="clip">${row.kind}</bdi></th><td>${number(row.examples)}</td><td>${number(row.parts)}</td>
        <td>${t(`kinds.rule.${row.rule}`)}</td><td>${row.same_as ? html`<bdi class="clip">${row.same_as}</bdi>` : "–"}</td>
        ${isAdmin && html`<td><button type="button" aria-label=${t("kinds.change_of", { kind: row.kind })} onClick=${() => onEdit(row)}>${t("kinds.change")}</button></td>`}</tr>`,
    )}</tbody>
  </table></${Scroller}>`;
}

function Learned({ learned: { version, fitted_at: at, weights } }) {
  const rows = [["version", version], ["fitted_at", at && fullMoment(at)], ["weights", weights?.slice(0, 12)]];
  return html`<dl class="facts facts-wide">${rows.map(([name, value]) => html`<div><dt>${t(`kinds.${name}`)}</dt><dd><bdi>${value ?? "–"}</bdi></dd></div>`)}</dl>`;
}

/** Names that may be one, misspelt or in another case. */
function Similar({ rows, onMerge }) {
  if (!rows.length) return null;
  return html`<section class="panel" aria-labelledby="similar-title"><h2 id="similar-title">${t("kinds.similar")}</h2>
    <ul class="plain-list">${rows.map(
      ({ kind, like }) => html`<li class="similar"><span>${t("kinds.similar_to", { kind, like })}</span>
        ${may("admin") && html`<button type="button" onClick=${() => onMerge(kind, like)}>${t("kinds.merge", { kind, like })}</button>`}</li>`,
    )}</ul></section>`;
}

/** What people labelled and nothing is learned from, and why: the service's words. */
function LeftOut({ learned: { left_out: count, left_out_because: reasons } }) {
  if (!count) return null;
  return html`<section class="panel" aria-labelledby="left-out"><h2 id="left-out">${t("kinds.left_out", { n: count })}</h2>
    <ul class="sentences" lang="en">${reasons.map((reason) => html`<li><bdi>${reason}</bdi></li>`)}</ul></section>`;
}
