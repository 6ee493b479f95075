// Switching versions: a dialog that says what will happen, asks why, and does it.
import { html, useState } from "../vendor.js";
import { may, post, segment } from "../core/api.js";
import { readModels } from "../core/live.js";
import { t } from "../core/text.js";
import { Dialog, errorText, say } from "./notice.js";

const REFUSED = ["defects_would_pass", "cases_missing"];
const LEAST_REASON = 3;

/** `action` is activate, rollback or discard; `version` is the one that was looked at. */
export function SwitchDialog({ action, model, version, serving, onClose, onDone = () => {} }) {
  const [reason, setReason] = useState("");
  const [state, setState] = useState({ isBusy: false, error: null });
  const refusal = REFUSED.includes(state.error?.code) ? state.error : null;
  const isReasonNeeded = action === "rollback" || refusal !== null;
  const isForbidden = refusal !== null && !may("admin");
  const why = reason.trim();
  const isReady = why.length >= LEAST_REASON || (!isReasonNeeded && why.length === 0);
  const act = async (event) => {
    event.preventDefault();
    setState({ ...state, isBusy: true });
    const how = { version, ...(why && { reason: why }), ...(refusal && { force: true }) };
    try {
      await post(`/v1/models/${segment(model)}:${action}`, how);
      await readModels().catch(() => {}); // the event that says so is on its way as well
      say(t(`switch.done_${action}`, { model, version }));
      onDone();
      onClose();
    } catch (error) {
      setState({ isBusy: false, error });
      if (error.code === "version_changed") readModels().catch(() => {});
    }
  };
  return html`<${Dialog} title=${t(`switch.title_${action}`)} onClose=${onClose}>
    <form onSubmit=${act}>
      <p>${t(`switch.text_${action}`)}</p>
      <dl class="facts facts-wide">
        <div><dt>${t("filter.model")}</dt><dd><bdi>${model}</bdi></dd></div>
        <div><dt>${t(`switch.version_${action}`)}</dt><dd><bdi>${version}</bdi></dd></div>
        ${serving && html`<div><dt>${t("models.active")}</dt><dd><bdi>${serving}</bdi></dd></div>`}
      </dl>
      ${state.error && html`<p class="failed" role="alert">${errorText(state.error)}</p>`}
      ${refusal && html`<p>${t(isForbidden ? "switch.may_not_force" : "switch.may_force")}</p>`}
      ${!isForbidden && html`<label class="field"><span>${t(isReasonNeeded ? "switch.reason" : "switch.reason_optional")}</span>
        <input maxlength="1000" required=${isReasonNeeded} minlength=${LEAST_REASON} value=${reason} onInput=${(event) => setReason(event.target.value)} /></label>`}
      <div class="buttons dialog-buttons">
        <button type="button" onClick=${onClose}>${t("action.cancel")}</button>
        ${!isForbidden && html`<button type="submit" class=${refusal || action !== "activate" ? "danger" : "primary"} disabled=${state.isBusy || !isReady}>${t(refusal ? "switch.force" : `switch.do_${action}`)}</button>`}
      </div>
    </form>
  </${Dialog}>`;
}
