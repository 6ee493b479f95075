// Why a part stood out: which evidence spoke, what was expected there, which good parts are nearest.
import { html, useState } from "../vendor.js";
import { segment } from "../core/api.js";
import { href } from "../core/route.js";
import { number, percent, t } from "../core/text.js";
import { isNamed, KindName } from "./kindwords.js";
import { useLoaded } from "./load.js";
import { errorText } from "./notice.js";
import { pictureUrl } from "./picture.js";

export const useWhy = (part) =>
  useLoaded(part && part.kept !== false ? `/v1/results/${segment(part.result_id)}/why` : null);

export function Evidence({ why }) {
  return html`<table class="bars">
    <caption>${t("why.evidence")}</caption>
    <tbody>
      ${why.evidence.map(
        ({ kind, share, score, normals }) => html`<tr>
          <th scope="row">${t(`evidence.${kind}`)}
            <small>${normals ? t("why.beside", { score: number(score, 1), median: number(normals.median, 1), p95: number(normals.p95, 1) }) : t("why.alone", { score: number(score, 1) })}</small></th>
          <td><meter min="0" max="1" value=${share}>${percent(share)}</meter></td>
          <td class="number">${percent(share)}</td>
        </tr>`,
      )}
    </tbody>
  </table>`;
}

/** What was expected, as a picture to be compared with what came. */
export function Expected({ part }) {
  const [state, setState] = useState({ id: null, isFailed: false });
  const isAsked = state.id === part.result_id;
  if (!isAsked) {
    return html`<button type="button" onClick=${() => setState({ id: part.result_id, isFailed: false })}>${t("why.show_expected")}</button>`;
  }
  if (state.isFailed) return html`<p class="muted">${t("why.no_expected")}</p>`;
  return html`<div class="pair">
    <figure><img src=${pictureUrl(part.result_id, 512)} alt="" /><figcaption>${t("why.came")}</figcaption></figure>
    <figure>
      <img src=${`/v1/results/${segment(part.result_id)}/expected`} alt="" onError=${() => setState({ ...state, isFailed: true })} />
      <figcaption>${t("why.expected")}</figcaption>
    </figure>
  </div>`;
}

export function Neighbours({ why }) {
  if (!why.neighbours.length) return html`<p class="muted">${t("why.no_neighbours")}</p>`;
  return html`<h3 class="not-printed">${t("why.neighbours")}</h3>
    <ul class="strip">
      ${why.neighbours.map(
        ({ result_id: id, distance }) => html`<li><a href=${href("parts", id)}>
          <img loading="lazy" src=${pictureUrl(id, 160)} alt=${t("why.neighbour", { distance: number(distance) })} />
        </a></li>`,
      )}
    </ul>`;
}

/** What each place looks like that somebody has named before. */
function Kinds({ part }) {
  if (!isNamed(part)) return null;
  const named = part.regions.map((region, index) => ({ region, number: index + 1 })).filter(({ region }) => region.kind);
  return html`<h3>${t("kind.looks_like")}</h3>
    <ul class="plain-list">${named.map(({ region, number: place }) => html`<li>${t("region.name", { number: place })}: <${KindName} region=${region} /></li>`)}</ul>`;
}

export function Why({ part, loaded }) {
  if (part.kept === false) return null;
  if (loaded.error) return html`<section class="panel"><h2>${t("why.title")}</h2><p class="muted">${errorText(loaded.error)}</p></section>`;
  if (!loaded.data) return null;
  return html`<section class="panel">
    <h2>${t("why.title")}</h2>
    <${Evidence} why=${loaded.data} />
    <${Kinds} part=${part} />
    <${Expected} part=${part} />
    <${Neighbours} why=${loaded.data} />
  </section>`;
}
