// Good parts to train on: sets of them, and more of them from this computer.
import { html, useEffect, useRef, useState } from "../vendor.js";
import { ask, segment } from "../core/api.js";
import { bytes, moment, number, t } from "../core/text.js";
import { isPlainName, plainName } from "./names.js";
import { Dialog, errorText, say, sayError } from "./notice.js";
import { FEWEST_PARTS } from "./rates.js";
import { droppedFiles, forgetUpload, resumeUpload, sorted, stopUpload, upload, uploadParts } from "./upload.js";

const MOST_SHOWN = 20;

/** A field for a name that the service takes; says what is wrong while it is typed. */
export function NameField({ label, hint, name, onName, list = null }) {
  const isWrong = name !== "" && !isPlainName(name);
  return html`<label class="field grow"><span>${label}</span>
    <input required maxlength="64" list=${list} value=${name} aria-invalid=${isWrong} autocomplete="off" spellcheck=${false}
      onInput=${(event) => onName(event.target.value)} onBlur=${() => onName(plainName(name))} />
    <small role=${isWrong ? "alert" : null}>${isWrong ? t("name.rule", { name: plainName(name) }) : hint}</small>
  </label>`;
}

/** Sets of good parts, of which one may be chosen. */
export function DatasetTable({ datasets, chosen, onChoose, onDeleted }) {
  const [toDelete, setToDelete] = useState(null);
  return html`<div class="table-scroll"><table class="rows stacked">
    <caption class="hidden-text">${t("train.sets")}</caption>
    <thead><tr><th scope="col">${t("train.set")}</th><th scope="col" class="number">${t("train.images")}</th><th scope="col" class="number">${t("train.size")}</th><th scope="col">${t("train.changed")}</th><th scope="col"><span class="hidden-text">${t("action.delete")}</span></th></tr></thead>
    <tbody>
      ${datasets.map(
        (set) => html`<tr key=${set.name}>
          <th scope="row"><label class="choice"><input type="radio" name="dataset" checked=${set.name === chosen} onChange=${() => onChoose(set.name)} /><bdi>${set.name}</bdi></label></th>
          <td class="number" data-label=${t("train.images")}>${number(set.images)}</td>
          <td class="number" data-label=${t("train.size")}>${bytes(set.bytes)}</td>
          <td data-label=${t("train.changed")}>${moment(set.updated_at)}</td>
          <td class="number"><button type="button" class="quiet danger" aria-label=${t("train.delete_set", { name: set.name })} onClick=${() => setToDelete(set)}>${t("action.delete")}</button></td>
        </tr>`,
      )}
    </tbody>
  </table></div>
  ${toDelete && html`<${DeleteDialog} set=${toDelete} onClose=${() => setToDelete(null)} onDeleted=${onDeleted} />`}`;
}

function DeleteDialog({ set, onClose, onDeleted }) {
  const [error, setError] = useState(null);
  const remove = async () => {
    try {
      await ask("DELETE", `/v1/datasets/${segment(set.name)}`);
      say(t("train.deleted", { name: set.name }));
      onClose();
      onDeleted();
    } catch (failure) {
      setError(failure);
    }
  };
  return html`<${Dialog} title=${t("train.delete_set", { name: set.name })} onClose=${onClose}>
    <p>${t("train.delete_text", { n: set.images })}</p>
    ${error && html`<p class="failed" role="alert">${errorText(error)}</p>`}
    <div class="buttons"><button type="button" class="danger" onClick=${remove}>${t("action.delete")}</button><button type="button" onClick=${onClose}>${t("action.cancel")}</button></div>
  </${Dialog}>`;
}

/** Adds good parts to the set of this name: a folder or pictures, chosen or dropped. */
export function GoodPartsDrop({ name, onAdded }) {
  const [isOver, setOver] = useState(false);
  const [isEmpty, setEmpty] = useState(false);
  const isBusy = upload.value?.isBusy ?? false;
  const wasBusy = useRef(isBusy);
  useEffect(() => {
    if (wasBusy.current && !isBusy) onAdded(upload.value.name); // also where another view began it
    wasBusy.current = isBusy;
  }, [isBusy]);
  const take = (files) => {
    const { pictures, others } = sorted(files);
    setEmpty(pictures.length === 0);
    if (pictures.length) uploadParts(name, pictures, others);
  };
  const cannot = isBusy || !isPlainName(name);
  const pick = (event) => {
    const files = [...event.target.files];
    event.target.value = ""; // so that the same choice counts again
    take(files);
  };
  const drop = (event) => {
    event.preventDefault();
    setOver(false);
    if (!cannot) droppedFiles(event.dataTransfer).then(take, sayError);
  };
  return html`<div
      class="drop ${isOver ? "drop-over" : ""}"
      onDragOver=${(event) => {
        event.preventDefault();
        setOver(!cannot);
      }}
      onDragLeave=${() => setOver(false)}
      onDrop=${drop}
    >
      <label class="button ${cannot ? "disabled" : ""}">${t("upload.folder")}<input class="hidden-text" type="file" webkitdirectory multiple disabled=${cannot} onChange=${pick} /></label>
      <label class="button ${cannot ? "disabled" : ""}">${t("upload.pictures")}<input class="hidden-text" type="file" accept="image/*,.tif,.tiff" multiple disabled=${cannot} onChange=${pick} /></label>
      <span class="muted">${t(isPlainName(name) ? "upload.drop" : "upload.name_first")}</span>
    </div>
    ${isEmpty && html`<p class="failed" role="alert">${t("upload.no_pictures")}</p>`}
    <${UploadState} />`;
}

/** The upload under way, or what became of the last one until somebody has read it. */
function UploadState() {
  const state = upload.value;
  if (!state) return null;
  return html`<div class="upload">
    ${!state.isBusy && html`<button type="button" class="quiet close" aria-label=${t("action.close")} onClick=${forgetUpload}>×</button>`}
    <label>${t("upload.progress", { name: state.name, done: state.done, total: state.total })}<progress max=${state.total} value=${state.done}></progress></label>
    ${state.isBusy && html`<div class="buttons"><button type="button" onClick=${stopUpload}>${t("action.stop")}</button></div>`}
    <div role="status">
      ${!state.isBusy &&
      html`<p><strong>${t("upload.added", { n: state.added })}</strong> ${state.copies > 0 && t("upload.copies", { n: state.copies })} ${state.others > 0 && t("upload.others", { n: state.others })}</p>`}
    </div>
    ${state.error && html`<p class="failed" role="alert">${errorText(state.error)}</p>`}
    ${(state.error || state.isStopped) && html`<p>${t("upload.left", { n: state.total - state.done })} <button type="button" onClick=${resumeUpload}>${t("upload.go_on")}</button></p>`}
    <${Refused} count=${state.refusedCount} refusals=${state.refused} />
    ${!state.isBusy && state.added > 0 && state.added < FEWEST_PARTS && html`<p class="muted">${t("upload.more_welcome")}</p>`}
  </div>`;
}

/** What was refused, by name, and why: the first of them. */
function Refused({ count, refusals }) {
  if (!count) return null;
  return html`<details open>
    <summary>${t("upload.refused", { n: count })}</summary>
    <ul class="plain-list">${refusals.slice(0, MOST_SHOWN).map((refusal) => html`<li><bdi>${refusal.file}</bdi> <span class="muted">${errorText(refusal.error)}</span></li>`)}</ul>
    ${count > MOST_SHOWN && html`<p class="muted">${t("upload.and_more", { n: count - MOST_SHOWN })}</p>`}
  </details>`;
}
