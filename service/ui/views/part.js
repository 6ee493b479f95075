// One part in full: picture, map, regions, evidence, what people said, and its neighbours in time.
import { html, useEffect, useRef, useState } from "../vendor.js";
import { asLabel, get, may, path, segment } from "../core/api.js";
import { on } from "../core/events.js";
import { useKeys } from "../core/keys.js";
import { go, href, route } from "../core/route.js";
import { moment, t } from "../core/text.js";
import { MaskButton, MaskLayer, MaskTools } from "../parts/brush.js";
import { Facts, PartHead, rarity, RegionTable } from "../parts/facts.js";
import { judge, withdraw } from "../parts/judge.js";
import { useLoaded } from "../parts/load.js";
import { useMask } from "../parts/mask.js";
import { NearName, useNearName } from "../parts/nearname.js";
import { Busy, Failed, say, sayError } from "../parts/notice.js";
import { OpacitySlider, Picture, useZoom, ZoomButtons } from "../parts/picture.js";
import { Said } from "../parts/verdict.js";
import { useWhy, Why } from "../parts/why.js";

export function PartDetail({ id }) {
  const loaded = useLoaded(`/v1/results/${segment(id)}`);
  // What was read stays although reading it again fails: something may have been drawn on it.
  const before = useRef(null);
  if (loaded.data) before.current = loaded.data;
  const part = before.current?.result_id === id ? before.current : null;
  useEffect(() => on("feedback", (entry) => entry.result_id === id && loaded.again()), [id, loaded.again]);
  return html`${loaded.error && html`<${Failed} error=${loaded.error} />`}
    ${loaded.error && !part && html`<a class="button" href=${href("parts")}>${t("part.back")}</a>`}
    ${!loaded.error && !part && html`<${Busy} />`}
    ${part && html`<${Shown} key=${id} part=${part} again=${loaded.again} />`}`;
}

/** Open the part that was inspected before or after this one, by the same camera. */
async function step(part, isLater) {
  const query = { camera: part.camera, model: part.model, limit: 2, order: isLater ? "oldest" : "newest" };
  query[isLater ? "since" : "until"] = part.inspected_at;
  const { results } = await get(path("/v1/results", query));
  const next = results.find(({ result_id: id }) => id !== part.result_id);
  if (next) go("parts", next.result_id, route.value.query);
  else say(t(isLater ? "part.is_last" : "part.is_first"));
}

function Shown({ part, again }) {
  const [opacity, setOpacity] = useState(0.7);
  const [isHidden, setHidden] = useState(false);
  const zoom = useZoom();
  const why = useWhy(part);
  const move = (isLater) => step(part, isLater).catch(sayError);
  const said = async (work) => {
    try {
      await work();
      await again();
    } catch (error) {
      sayError(error);
    }
  };
  const speaks = may("review");
  const mask = useMask(part);
  const draws = speaks && part.mask !== undefined; // else the service keeps no masks
  const nearName = useNearName(() => again());
  const call = (isDefect, more = {}) =>
    said(async () => {
      if (isDefect && mask.isDirty && !(await mask.save())) return;
      nearName.look(part, more, await judge(part, isDefect, more));
    });
  useKeys({
    next: () => move(true),
    previous: () => move(false),
    hide: () => setHidden(true),
    unhide: () => setHidden(false),
    zoom_in: () => zoom.by(1.5),
    zoom_out: () => zoom.by(1 / 1.5),
    zoom_reset: zoom.fit,
    ...(speaks && {
      good: () => call(false),
      defect: () => call(true),
      undo: () => said(() => withdraw(part)),
      ...(draws && mask.size && { brush: () => mask.change({ isOpen: !mask.isOpen }) }),
    }),
  });
  const tools = part.kept !== false && html`<div class="picture-tools">
    <${ZoomButtons} zoom=${zoom} /><${OpacitySlider} opacity=${opacity} onChange=${setOpacity} />
    <a href=${`/v1/results/${segment(part.result_id)}/image`} download>${t("part.original")}</a>
    ${draws && html`<${MaskButton} mask=${mask} />`}
  </div>
  ${draws && html`<${MaskTools} mask=${mask} hasRegions=${part.regions.length > 0} />`}`;
  return html`<header class="view-head">
      <h1>${t("part.title", { part: part.part_id ?? part.result_id.slice(0, 8) })}</h1>
      <div class="buttons">
        <button type="button" onClick=${() => move(false)}>← ${t("part.earlier")}</button>
        <button type="button" onClick=${() => move(true)}>${t("part.later")} →</button>
        <button type="button" onClick=${() => print()}>${t("part.print")}</button>
        <a class="button" href=${href("parts", null, route.value.query)}>${t("part.back")}</a>
      </div>
    </header>
    <div class="part">
      <section class="part-picture">
        <${Picture} result=${part} opacity=${isHidden ? 0 : opacity} showsRegions=${!isHidden} zoom=${zoom} tools=${tools}
          onSize=${mask.sizeIs} over=${html`<${MaskLayer} mask=${mask} isHidden=${isHidden} />`} />
      </section>
      <div class="part-facts">
        <section class="panel">
          <${PartHead} part=${part} />
          <p>${rarity(part, why.data)}</p>
          ${speaks && html`<${Judging} part=${part} call=${call} takeBack=${() => said(() => withdraw(part))} /><${NearName} name=${nearName} />`}
        </section>
        <${Why} part=${part} loaded=${why} />
        <section class="panel"><h2>${t("part.regions")}</h2><${RegionTable} part=${part} /></section>
        <section class="panel"><h2>${t("part.facts")}</h2><${Facts} part=${part} /></section>
        <${History} part=${part} />
      </div>
    </div>`;
}

function Judging({ part, call, takeBack }) {
  const [defect, setDefect] = useState("");
  const [comment, setComment] = useState("");
  const more = { defect: asLabel(defect) || null, comment: comment.trim() || null };
  return html`<form class="judging" onSubmit=${(event) => event.preventDefault()}>
    <div class="buttons">
      <button type="button" onClick=${() => call(false, { comment: more.comment })}>${t("action.good")}</button>
      <button type="button" onClick=${() => call(true, more)}>${t("action.defect")}</button>
      ${part.feedback.length > 0 && part.feedback[0].kind !== "withdrawn" && html`<button type="button" class="quiet" onClick=${takeBack}>${t("action.withdraw")}</button>`}
    </div>
    <div class="field-row">
      <label class="field"><span>${t("judge.kind")}</span><input maxlength="128" value=${defect} onInput=${(event) => setDefect(event.target.value)} /></label>
      <label class="field grow"><span>${t("judge.comment")}</span><input maxlength="1000" value=${comment} onInput=${(event) => setComment(event.target.value)} /></label>
    </div>
  </form>`;
}

function History({ part }) {
  if (!part.feedback.length) return null;
  return html`<section class="panel">
    <h2>${t("part.history")}</h2>
    <ul class="history">
      ${part.feedback.map(
        (entry) => html`<li>
          ${entry.kind === "withdrawn" ? t("feedback.withdrawn") : html`<${Said} kind=${entry.kind} defect=${entry.defect} />`}
          <span class="muted">${moment(entry.created_at)} <bdi>${entry.author ?? ""}</bdi></span>
          ${entry.comment && html`<p><bdi>${entry.comment}</bdi></p>`}
        </li>`,
      )}
    </ul>
  </section>`;
}
