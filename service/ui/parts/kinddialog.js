// What a line does with a kind of defect: a dialog that says what it means, asks why, and does it.
import { html, useState } from "../vendor.js";
import { put, segment } from "../core/api.js";
import { t } from "../core/text.js";
import { Dialog, errorText, say } from "./notice.js";

const RULES = ["none", "warn", "ignore"];
const LEAST_REASON = 3;

/** `row` is a kind as the service lists it; `row.proposed` a name that it may be a misspelling of. */
export function KindDialog({ model, row, names, onClose, onDone }) {
  const [rule, setRule] = useState(row.rule);
  const [sameAs, setSameAs] = useState(row.proposed ?? row.same_as ?? "");
  const [reason, setReason] = useState("");
  const [state, setState] = useState({ isBusy: false, error: null });
  const others = [...new Set([...names, sameAs])].filter((name) => name && name !== row.kind);
  const isReasonNeeded = rule !== "none";
  const why = reason.trim();
  const isChanged = rule !== row.rule || sameAs !== (row.same_as ?? "");
  const isReady = isChanged && (why.length >= LEAST_REASON || (!isReasonNeeded && !why));
  const act = async (event) => {
    event.preventDefault();
    setState({ isBusy: true, error: null });
    try {
      await put(`/v1/models/${segment(model)}/kinds/${segment(row.kind)}`, { rule, same_as: sameAs || null, reason: why || null });
      say(t("kinds.done", { kind: row.kind }));
      onDone();
      onClose();
    } catch (error) {
      setState({ isBusy: false, error });
    }
  };
  return html`<${Dialog} title=${t("kinds.change_of", { kind: row.kind })} onClose=${onClose}>
    <form onSubmit=${act}>
      <fieldset><legend>${t("kinds.rule_for", { kind: row.kind })}</legend>
        ${RULES.map((name) => html`<label class="choice"><input type="radio" name="rule" checked=${rule === name} onChange=${() => setRule(name)} />
          <span><strong>${t(`kinds.rule.${name}`)}</strong><br /><small>${t(`kinds.rule_means.${name}`)}</small></span></label>`)}
      </fieldset>
      <label class="field"><span>${t("kinds.same_as")}</span>
        <select value=${sameAs} onChange=${(event) => setSameAs(event.target.value)}>
          <option value="">${t("kinds.itself")}</option>
          ${others.map((name) => html`<option value=${name}>${name}</option>`)}
        </select><small>${t("kinds.same_as_means")}</small></label>
      <p class="warned">${t("kinds.sealed")}</p>
      ${state.error && html`<p class="failed" role="alert">${errorText(state.error)}</p>`}
      <label class="field"><span>${t(isReasonNeeded ? "switch.reason" : "switch.reason_optional")}</span>
        <input maxlength="1000" required=${isReasonNeeded} minlength=${LEAST_REASON} value=${reason} onInput=${(event) => setReason(event.target.value)} /></label>
      <div class="buttons dialog-buttons">
        <button type="button" onClick=${onClose}>${t("action.cancel")}</button>
        <button type="submit" class=${rule === "none" ? "primary" : "danger"} disabled=${state.isBusy || !isReady}>${t("kinds.apply")}</button>
      </div>
    </form>
  </${Dialog}>`;
}
