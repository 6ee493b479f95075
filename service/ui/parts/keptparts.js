// Good parts that were inspected here and whose pictures are kept, copied into a set to train on.
import { html, useState } from "../vendor.js";
import { post, segment } from "../core/api.js";
import { cameras } from "../core/live.js";
import { t } from "../core/text.js";
import { isPlainName } from "./names.js";
import { errorText } from "./notice.js";

const MOST = 2000;
const USUAL = 200;

const moment = (text) => (text ? new Date(text).toISOString() : null);

export function KeptParts({ name, onAdded }) {
  const [filter, setFilter] = useState({ camera: "", since: "", until: "", limit: USUAL });
  const [state, setState] = useState({ isBusy: false, error: null, answer: null });
  const change = (field) => (event) => setFilter({ ...filter, [field]: event.target.value });
  const copy = async (event) => {
    event.preventDefault();
    setState({ isBusy: true, error: null, answer: null });
    try {
      const which = { camera: filter.camera || null, since: moment(filter.since), until: moment(filter.until), limit: Number(filter.limit) || USUAL };
      const answer = await post(`/v1/datasets/${segment(name)}:from-results`, which);
      setState({ isBusy: false, error: null, answer });
      if (answer.added) onAdded(name);
    } catch (error) {
      setState({ isBusy: false, error, answer: null });
    }
  };
  const names = [...(cameras.value?.values() ?? [])].map(({ camera }) => camera).filter(Boolean);
  if (!cameras.value?.size) return null;
  return html`<details>
    <summary>${t("kept.title")}</summary>
    <form onSubmit=${copy}>
      <p class="muted">${t("kept.text")}</p>
      <div class="field-row">
        <label class="field"><span>${t("filter.camera")}</span><select value=${filter.camera} onChange=${change("camera")}>
          <option value="">${t("filter.any")}</option>${names.map((value) => html`<option value=${value}>${value}</option>`)}</select></label>
        <label class="field"><span>${t("filter.since")}</span><input type="datetime-local" value=${filter.since} onChange=${change("since")} /></label>
        <label class="field"><span>${t("filter.until")}</span><input type="datetime-local" value=${filter.until} onChange=${change("until")} /></label>
        <label class="field"><span>${t("kept.most")}</span><input type="number" min="1" max=${MOST} value=${filter.limit} onInput=${change("limit")} /></label>
      </div>
      <p><button type="submit" disabled=${state.isBusy || !isPlainName(name)}>${t(state.isBusy ? "kept.copying" : "kept.take")}</button></p>
      ${state.error && html`<p class="failed" role="alert">${errorText(state.error)}</p>`}
      <div role="status">${state.answer && html`<${Copied} answer=${state.answer} />`}</div>
    </form>
  </details>`;
}

function Copied({ answer: { added, copies, missing } }) {
  if (added + copies + missing === 0) return html`<p class="warned">${t("kept.empty")}</p>`;
  return html`<p><strong>${t("upload.added", { n: added })}</strong> ${copies > 0 && t("upload.copies", { n: copies })} ${missing > 0 && t("kept.missing", { n: missing })}</p>`;
}
