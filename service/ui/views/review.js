// Review: rejected and doubtful parts that nobody has looked at, then a sample of those that passed.
import { html, useEffect, useRef, useState } from "../vendor.js";
import { REVIEWER, session } from "../core/api.js";
import { on } from "../core/events.js";
import { useKeys } from "../core/keys.js";
import { cameras } from "../core/live.js";
import { go, href, route } from "../core/route.js";
import { moment, t } from "../core/text.js";
import { Answers, useRegions } from "../parts/answers.js";
import { MaskButton, MaskLayer, MaskTools } from "../parts/brush.js";
import { PartHead, rarity } from "../parts/facts.js";
import { judge, withdraw } from "../parts/judge.js";
import { useMask } from "../parts/mask.js";
import { NearName, useNearName } from "../parts/nearname.js";
import { Busy, Empty, Failed, say, sayError } from "../parts/notice.js";
import { OpacitySlider, Picture, pictureUrl, useZoom, ZoomButtons } from "../parts/picture.js";
import { useClaim, useKinds, useQueue } from "../parts/queue.js";

/** How others see this reviewer; two tabs with one key are told apart by the service alone. */
const me = () => session.value.name ?? REVIEWER;

export function Review() {
  const camera = route.value.query.camera ?? "";
  const queue = useQueue(camera);
  const [judged, setJudged] = useState([]);
  const spoken = useRef(new Set()); // what was said here is no news
  const kinds = useKinds(queue.kinds);
  const [comment, setComment] = useState(null);
  const [opacity, setOpacity] = useState(0.7);
  const [isHidden, setHidden] = useState(false);
  const zoom = useZoom();
  const part = queue.parts?.[0] ?? null;
  const regions = useRegions(part);
  const mask = useMask(part);
  const nearName = useNearName(kinds.rename);
  /** Take a part away that somebody else has, unless something was drawn on it. */
  const yieldPart = (id) => !(mask.isDirty && id === part?.result_id) && queue.remove(id);

  useClaim(part, queue.done, (lost) => {
    say(t(mask.isDirty ? "review.lost_drawn" : "review.lost"));
    yieldPart(lost.result_id);
  });
  useEffect(() => on("feedback", ({ result_id: id, kind }) => kind !== "withdrawn" && !spoken.current.has(id) && yieldPart(id)));
  // What somebody else looks at leaves the queue before it is its turn here.
  useEffect(() => on("claim", ({ result_id: id, by }) => by && by !== me() && part?.result_id !== id && queue.remove(id)));
  useEffect(() => on("inspection", ({ verdict }) => verdict !== "OK" && queue.parts?.length === 0 && queue.read()));
  useEffect(() => on("gap", () => !mask.isDirty && queue.read()));
  useEffect(() => {
    if (queue.parts?.length === 0 && queue.done.size) queue.read();
  }, [queue.parts?.length]);

  const speak = async (isDefect, defect = null) => {
    if (!part || queue.done.has(part.result_id) || mask.isBusy) return;
    if (isDefect ? mask.isDirty && !(await mask.save()) : !mask.letGo()) return;
    const said = { part, kind: isDefect ? "defect" : "good", defect };
    const more = { defect, comment: comment?.trim() || null, regions: regions.sent };
    queue.done.add(part.result_id);
    spoken.current.add(part.result_id);
    queue.remove(part.result_id);
    setComment(null);
    setJudged((old) => [...old, said]);
    try {
      nearName.look(part, more, await judge(part, isDefect, more));
    } catch (error) {
      sayError(error);
      setJudged((old) => old.filter((entry) => entry !== said));
      queue.done.delete(part.result_id);
      if (error.code === "claimed") return;
      queue.first(part);
      setComment((typed) => typed ?? comment);
    }
  };
  const undo = async () => {
    const last = judged.at(-1);
    if (!last || !mask.letGo()) return;
    try {
      await withdraw(last.part);
      setJudged((old) => old.slice(0, -1));
      queue.done.delete(last.part.result_id);
      queue.first(last.part);
    } catch (error) {
      sayError(error);
    }
  };
  const skip = () => part && mask.letGo() && queue.last(part);
  const changeCamera = (event) => {
    if (mask.letGo()) go("review", null, { camera: event.target.value });
    else event.target.value = camera;
  };
  useKeys({
    good: () => speak(false),
    defect: () => speak(true),
    kind: (event) => kinds.all[event.key - 1] && speak(true, kinds.all[event.key - 1]),
    ...(regions.guess && { confirm: () => speak(true, regions.guess) }),
    ...(regions.hasMany && { region_next: () => regions.step(1), region_previous: () => regions.step(-1) }),
    ...(mask.size && { brush: () => mask.change({ isOpen: !mask.isOpen }) }),
    undo,
    comment: () => setComment(comment === null ? "" : null),
    skip,
    next: skip,
    hide: () => setHidden(true),
    unhide: () => setHidden(false),
    zoom_in: () => zoom.by(1.5),
    zoom_out: () => zoom.by(1 / 1.5),
    zoom_reset: zoom.fit,
  });

  const cameraNames = [...(cameras.value?.values() ?? [])].map((row) => row.camera).filter(Boolean);
  return html`<header class="view-head">
      <h1>${t("nav.review")}</h1>
      <p class="muted" role="status">${t("review.count", { n: queue.waiting })} · ${t("review.done", { n: judged.length })}</p>
      <label class="compact-field"><span>${t("filter.camera")}</span>
        <select value=${camera} onChange=${changeCamera}>
          <option value="">${t("filter.any")}</option>
          ${cameraNames.map((name) => html`<option value=${name}>${name}</option>`)}
        </select></label>
    </header>
    <${NearName} name=${nearName} />
    ${queue.error && html`<${Failed} error=${queue.error} />`}
    ${!queue.parts && !queue.error && html`<${Busy} />`}
    ${queue.parts && !part && html`<${Empty}>${t("review.empty")} <a href=${href("wall")}>${t("nav.wall")}</a></${Empty}>
      ${judged.length > 0 && html`<button type="button" onClick=${undo}>${t("action.undo")}</button>`}`}
    ${part &&
    html`<div class="review">
      <section class="part-picture">
        ${part.verdict === "OK" && html`<p class="sample-note">${t("review.sample")}</p>`}
        <${Picture} result=${part} opacity=${isHidden ? 0 : opacity} showsRegions=${!isHidden} zoom=${zoom}
          onSize=${mask.sizeIs} over=${html`<${MaskLayer} key=${part.result_id} mask=${mask} isHidden=${isHidden} />`}
          chosen=${regions.chosen} onChoose=${regions.hasMany ? regions.toggle : null}
          tools=${html`<div class="picture-tools"><${ZoomButtons} zoom=${zoom} /><${OpacitySlider} opacity=${opacity} onChange=${setOpacity} /><${MaskButton} mask=${mask} /></div>
            <${MaskTools} mask=${mask} hasRegions=${part.regions.length > 0} regions=${regions.sent} />`} />
      </section>
      <div class="part-facts">
        <section class="panel">
          <${PartHead} part=${part} />
          <p>${rarity(part)}</p>
          <p class="muted"><bdi>${part.part_id ?? ""}</bdi> <bdi>${part.camera ?? ""}</bdi> ${moment(part.inspected_at)}</p>
          <p><a href=${href("parts", part.result_id)}>${t("review.all")}</a></p>
        </section>
        <${Answers} part=${part} regions=${regions} kinds=${kinds} speak=${speak} skip=${skip} undo=${judged.length ? undo : null}
          comment=${comment} setComment=${setComment} />
      </div>
    </div>
    <${Next} parts=${queue.parts.slice(1, 7)} />`}`;
}

/** The parts that come next, so that their pictures are there when they do. */
function Next({ parts }) {
  return html`<ul class="strip" aria-label=${t("review.next")}>
    ${parts.map((part) => html`<li key=${part.result_id}>${part.kept === false ? html`<span class="no-picture">–</span>` : html`<img src=${pictureUrl(part.result_id, 160)} alt="" />`}</li>`)}
  </ul>
  ${parts[0] && parts[0].kept !== false && html`<link rel="prefetch" href=${pictureUrl(parts[0].result_id)} />`}`;
}
