// Parts as a row of small pictures that lead to them; of many, the first are shown and the rest counted.
import { html } from "../vendor.js";
import { href } from "../core/route.js";
import { number, t } from "../core/text.js";
import { pictureUrl } from "./picture.js";

const MOST = 50;

/** `parts` are {id, score} or ids; `count` is how many there are where not all are named. */
export function Thumbs({ parts, label, count = parts.length }) {
  const shown = parts.slice(0, MOST).map((part) => (typeof part === "string" ? { id: part, score: null } : part));
  return html`<ul class="strip thumbs" aria-label=${label} tabindex="0">
      ${shown.map(
        ({ id, score }) => html`<li key=${id}><a href=${href("parts", id)}>
          <img loading="lazy" src=${pictureUrl(id, 160)} alt=${t("thumbs.part", { part: id.slice(0, 8) })} />
          <span>${score === null ? id.slice(0, 8) : number(score)}</span>
        </a></li>`,
      )}
    </ul>
    ${count > shown.length && html`<p class="muted">${t("thumbs.more", { n: count - shown.length })}</p>`}`;
}
