// What may be said of the part that is shown in Review, by button or key.
import { html, useEffect, useRef, useState } from "../vendor.js";
import { asLabel } from "../core/api.js";
import { bindings, keyName } from "../core/keys.js";
import { t } from "../core/text.js";
import { guessOf, kindText } from "./kindwords.js";

const Key = ({ action }) => html`<kbd>${keyName(bindings.value[action])}</kbd>`;

/** Which of a part's regions a name is for; [] are all that stand out, as the service counts them. */
export function useRegions(part) {
  const [state, setState] = useState({ id: null, chosen: [] });
  const id = part?.result_id ?? null;
  const chosen = state.id === id ? state.chosen : [];
  const set = (next) => setState({ id, chosen: next });
  const places = (part?.regions.length ?? 0) + 1;
  const step = (by) => {
    const now = chosen.length === 1 ? chosen[0] : -1;
    const next = ((now + 1 + by + places) % places) - 1;
    set(next < 0 ? [] : [next]);
  };
  const toggle = (place) => set(chosen.includes(place) ? chosen.filter((other) => other !== place) : [...chosen, place].sort((a, b) => a - b));
  /** The kind that the strongest of them was found to be of. */
  const guess = guessOf(part?.regions[chosen[0] ?? 0]);
  return { chosen, sent: chosen.length ? chosen : null, guess, hasMany: places > 2, set, step, toggle };
}

export function Answers({ part, regions, kinds, speak, skip, undo, comment, setComment }) {
  return html`<section class="panel answers" aria-label=${t("review.answers")}>
    <div class="answer-row answer-main">
      <button type="button" class="answer" onClick=${() => speak(false)}><${Key} action="good" />${t("action.good")}</button>
      <button type="button" class="answer" onClick=${() => speak(true)}><${Key} action="defect" />${t("action.defect")}</button>
    </div>
    ${regions.hasMany && html`<${RegionChoice} part=${part} regions=${regions} />`}
    <${Kinds} part=${part} regions=${regions} kinds=${kinds} speak=${speak} />
    <div class="answer-row">
      <button type="button" onClick=${skip}><${Key} action="skip" />${t("action.skip")}</button>
      <button type="button" disabled=${!undo} onClick=${undo}><${Key} action="undo" />${t("action.undo")}</button>
      <button type="button" aria-expanded=${comment !== null} onClick=${() => setComment(comment === null ? "" : null)}><${Key} action="comment" />${t("judge.comment")}</button>
    </div>
    ${comment !== null && html`<${Comment} comment=${comment} setComment=${setComment} />`}
  </section>`;
}

/** Digits stay where they are from part to part; what the service found stands before them. */
function Kinds({ part, regions, kinds, speak }) {
  const [name, setName] = useState("");
  const add = (event) => {
    event.preventDefault();
    if (name.trim()) kinds.add(asLabel(name));
    setName("");
  };
  const isUnknown = !regions.guess && part.regions[regions.chosen[0] ?? 0]?.kind;
  return html`${isUnknown && html`<p class="muted">${t("review.unknown")}</p>`}
    <div class="kinds">
      ${regions.guess && html`<button type="button" class="guess" onClick=${() => speak(true, regions.guess)}><${Key} action="confirm" /><span class="hidden-text">${t("review.guess")}</span><bdi class="ellipsis">${regions.guess}?</bdi></button>`}
      ${kinds.all.map((kind, index) => html`<button type="button" onClick=${() => speak(true, kind)}><kbd>${index + 1}</kbd><bdi class="ellipsis">${kind}</bdi></button>`)}
      <form class="add-kind" onSubmit=${add}>
        <label class="hidden-text" for="new-kind">${t("review.new_kind")}</label>
        <input id="new-kind" maxlength="128" placeholder=${t("review.new_kind")} value=${name} onInput=${(event) => setName(event.target.value)} />
        <button type="submit">+</button>
      </form>
    </div>`;
}

function RegionChoice({ part, regions }) {
  return html`<div class="region-choice" role="group" aria-label=${t("region.which")}>
    <p class="muted">${t("region.which")} <${Key} action="region_previous" /> <${Key} action="region_next" /></p>
    <div class="buttons">
      <button type="button" aria-pressed=${!regions.chosen.length} onClick=${() => regions.set([])}>${t("region.strong")}</button>
      ${part.regions.map((region, place) => html`<button type="button" aria-pressed=${regions.chosen.includes(place)} onClick=${() => regions.toggle(place)}>${t("region.name", { number: place + 1 })}${kindText(region) && html` <bdi class="ellipsis">${kindText(region)}</bdi>`}</button>`)}
    </div>
  </div>`;
}

function Comment({ comment, setComment }) {
  const input = useRef(null);
  useEffect(() => input.current.focus(), []);
  const leave = (event) => {
    if (event.key === "Enter" || event.key === "Escape") {
      event.preventDefault();
      if (event.key === "Escape") setComment(null);
      input.current?.blur();
    }
  };
  return html`<label class="field"><span>${t("review.comment_hint")}</span>
    <input ref=${input} maxlength="1000" value=${comment} onInput=${(event) => setComment(event.target.value)} onKeyDown=${leave} /></label>`;
}
