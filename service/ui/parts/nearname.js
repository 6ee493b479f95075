// What the service notes of a new name, and the way back where it is a known one misspelt.
import { html, useState } from "../vendor.js";
import { get, segment } from "../core/api.js";
import { t } from "../core/text.js";
import { judge } from "./judge.js";
import { say, sayError } from "./notice.js";

/** The name that was meant, as far as the service knows one that is near; null otherwise. */
async function nearest(part, defect, notes) {
  try {
    const { kinds, similar } = await get(`/v1/models/${segment(part.model)}/kinds`);
    const pair = similar.find(({ kind, like }) => kind === defect || like === defect);
    if (pair) return pair.kind === defect ? pair.like : pair.kind;
    return kinds.find(({ kind }) => kind !== defect && notes.some((note) => note.includes(`'${kind}'`)))?.kind ?? null;
  } catch {
    return null; // then the note alone is shown
  }
}

/** The last note on a name; `look` takes an answer to feedback, `correct` says the nearer name instead. */
export function useNearName(onCorrected) {
  const [near, setNear] = useState(null);
  const look = async (part, said, answer) => {
    const notes = answer?.notes ?? [];
    if (notes.length) setNear({ part, said, notes, like: await nearest(part, said.defect, notes) });
  };
  const close = () => setNear(null);
  const correct = async () => {
    try {
      await judge(near.part, true, { ...near.said, defect: near.like });
      say(t("near.corrected", { kind: near.like }));
      onCorrected(near.said.defect, near.like);
      close();
    } catch (error) {
      sayError(error);
    }
  };
  return { near, look, close, correct };
}

export function NearName({ name: { near, close, correct } }) {
  if (!near) return null;
  const { said, like, notes } = near;
  return html`<section class="warned near" role="status">
    ${like && html`<p><strong>${t("near.text", { kind: said.defect, like })}</strong></p>`}
    ${notes.map((note) => html`<p lang="en"><bdi>${note}</bdi></p>`)}
    <div class="buttons">
      ${like && html`<button type="button" onClick=${correct}>${t("near.correct", { like })}</button>`}
      <button type="button" onClick=${close}>${t("near.keep", { kind: said.defect })}</button>
    </div>
  </section>`;
}
