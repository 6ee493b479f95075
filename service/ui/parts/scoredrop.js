// A picture from this computer, inspected as any other part.
import { html, useState } from "../vendor.js";
import { ask, asLabel, may, path, segment } from "../core/api.js";
import { go } from "../core/route.js";
import { t } from "../core/text.js";
import { errorText } from "./notice.js";

const LOOK_MS = 150;
const MOST_LOOKS = 20;
const PENDING = new Set(["result_not_found", "nothing_kept"]);

const pause = () => new Promise((done) => setTimeout(done, LOOK_MS));

/** Ask until an address answers with something else than that it is not there yet. */
async function written(url) {
  for (let looks = 1; ; looks += 1) {
    const answer = await fetch(url);
    const isPending = answer.status === 404 && PENDING.has((await answer.clone().json()).code);
    if (!isPending || looks === MOST_LOOKS) return answer;
    await pause();
  }
}

/** Wait until the service has put away what it has just said of a part: it answers before that. */
async function untilStored(id) {
  const url = `/v1/results/${segment(id)}`;
  await pause(); // seldom more: each look that is too early stands in the browser's log
  const row = await written(url);
  if (row.ok && (await row.json()).kept) await written(`${url}/map`);
}

/** Takes pictures, dropped or chosen; `onScored` gets the last one's answer and its file. */
export function ScoreDrop({ onScored = (answer) => go("parts", answer.result_id) }) {
  const [state, setState] = useState({ isBusy: false, error: null, isOver: false });
  if (!may("score")) return null;
  const inspect = async (files) => {
    setState({ isBusy: true, error: null, isOver: false });
    try {
      let answer = null;
      for (const file of files) {
        const url = path("/v1/score", { part_id: asLabel(file.name), heatmap: "none" });
        const headers = { "Content-Type": file.type || "application/octet-stream" };
        answer = await ask("POST", url, { body: file, headers });
      }
      if (answer) await untilStored(answer.result_id).catch(() => {}); // the verdict stands all the same
      setState({ isBusy: false, error: null, isOver: false });
      if (answer) onScored(answer, files.at(-1));
    } catch (error) {
      setState({ isBusy: false, error, isOver: false });
    }
  };
  const drop = (event) => {
    event.preventDefault();
    inspect([...event.dataTransfer.files]);
  };
  return html`<div
    class="drop ${state.isOver ? "drop-over" : ""}"
    onDragOver=${(event) => {
      event.preventDefault();
      setState({ ...state, isOver: true });
    }}
    onDragLeave=${() => setState({ ...state, isOver: false })}
    onDrop=${drop}
  >
    <label class="button">
      ${state.isBusy ? t("drop.busy") : t("drop.choose")}
      <input class="hidden-text" type="file" accept="image/*,.tif,.tiff" multiple disabled=${state.isBusy} onChange=${(event) => inspect([...event.target.files])} />
    </label>
    <span class="muted">${t("drop.text")}</span>
    ${state.error && html`<p class="failed" role="alert">${errorText(state.error)}</p>`}
  </div>`;
}
