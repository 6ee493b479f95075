// Begins a training: on what, under which name, how thorough, and how many good parts may be rejected.
import { html, useState } from "../vendor.js";
import { models } from "../core/live.js";
import { number, t } from "../core/text.js";
import { NameField } from "./goodparts.js";
import { beginTraining, isActive, jobs } from "./jobs.js";
import { isPlainName } from "./names.js";
import { errorText } from "./notice.js";
import { FEWEST_PARTS, FIRM_PARTS, isPromised, RATES, rateWords, testedOf, usualRate } from "./rates.js";

const RECIPES = ["default", "fast"];

/** What so many good parts are good for, in a sentence. */
export function Advice({ parts, recipe = "default", rate = null }) {
  if (parts < FEWEST_PARTS) return html`<p class="warned">${t("train.too_few", { n: parts, fewest: FEWEST_PARTS })}</p>`;
  const stated = rate ?? usualRate(parts, recipe);
  const promise = t(isPromised(parts, recipe, stated) ? "train.promise" : "train.estimate", { rate: rateWords(stated), parts: number(parts) });
  const tested = testedOf(parts, recipe);
  return html`<p>${promise}</p><p class="muted">${tested < parts ? t("train.tested_some", { n: tested }) : t("train.tested_all")}</p>${parts < FIRM_PARTS && html`<p class="warned">${t("train.few", { n: parts, firm: FIRM_PARTS })}</p>`}
    <p class="muted">${t("train.copies")}</p>`;
}

/** `dataset` is a set as GET /v1/datasets says it, or null where a folder is named instead. */
export function TrainForm({ dataset, folder = null, suggested = "" }) {
  const [name, setName] = useState(suggested);
  const [recipe, setRecipe] = useState("default");
  const [rate, setRate] = useState("");
  const [state, setState] = useState({ isBusy: false, error: null });
  const shown = name || dataset?.name || "";
  const tooFew = dataset !== null && dataset.images < FEWEST_PARTS;
  const isThere = models.value?.known.includes(shown);
  const waits = (jobs.value ?? []).some((job) => job.kind === "training" && isActive(job));
  const begin = async (event) => {
    event.preventDefault();
    setState({ isBusy: true, error: null });
    const source = dataset === null ? { folder } : { dataset: dataset.name };
    try {
      await beginTraining({ model: shown, ...source, recipe, ...(rate && { false_alarm_rate: Number(rate) }) });
      setState({ isBusy: false, error: null });
    } catch (error) {
      setState({ isBusy: false, error });
    }
  };
  return html`<form class="train-form" onSubmit=${begin}>
    <${NameField} label=${t("train.model")} hint=${t(isThere ? "train.model_there" : "train.model_hint")} name=${shown} onName=${setName} />
    <fieldset>
      <legend>${t("train.recipe")}</legend>
      ${RECIPES.map(
        (value) => html`<label class="choice"><input type="radio" name="recipe" value=${value} checked=${recipe === value} onChange=${() => setRecipe(value)} />
          <span><strong>${t(`recipe.${value}`)}</strong><br /><small>${t(`recipe.${value}_text`)}</small></span></label>`,
      )}
    </fieldset>
    <label class="field"><span>${t("train.rate")}</span>
      <select value=${rate} onChange=${(event) => setRate(event.target.value)}>
        <option value="">${dataset && !tooFew ? t("train.rate_usual_of", { rate: rateWords(usualRate(dataset.images, recipe)) }) : t("train.rate_usual")}</option>
        ${RATES.map((value) => html`<option value=${value}>${t("train.rate_most", { rate: rateWords(value) })}</option>`)}
      </select>
      <small>${t("train.rate_text")}</small></label>
    ${dataset && html`<${Advice} parts=${dataset.images} recipe=${recipe} rate=${rate ? Number(rate) : null} />`}
    ${state.error && html`<p class="failed" role="alert">${errorText(state.error)}</p>`}
    ${waits && html`<p class="muted">${t("train.one_at_a_time")}</p>`}
    <button type="submit" class="primary" disabled=${state.isBusy || tooFew || !isPlainName(shown) || (dataset === null && !folder)}>${t(state.isBusy ? "train.beginning" : "train.begin")}</button>
  </form>`;
}
