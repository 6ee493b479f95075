// Review: rejected and doubtful parts that nobody has looked at, then a sample of those that passed.
import { html, useEffect, useRef, useState } from "../vendor.js";
import { asLabel, get, path, post, REVIEWER, segment, session } from "../core/api.js";
import { on } from "../core/events.js";
import { bindings, keyName, useKeys } from "../core/keys.js";
import { cameras } from "../core/live.js";
import { go, href, route } from "../core/route.js";
import { moment, t } from "../core/text.js";
import { PartHead, rarity } from "../parts/facts.js";
import { judge, withdraw } from "../parts/judge.js";
import { Busy, Empty, Failed, say, sayError } from "../parts/notice.js";
import { OpacitySlider, Picture, pictureUrl, useZoom, ZoomButtons } from "../parts/picture.js";

const LIMIT = 20;
const RENEW_MS = 25_000; // a claim lasts a minute
const MOST_KINDS = 9; // as many as there are digits

function readKinds() {
  try {
    return JSON.parse(localStorage.getItem("maskline.kinds") ?? "[]").filter((kind) => typeof kind === "string");
  } catch {
    return [];
  }
}

/** Names of defects by digit: those that people have used, and those added here. */
function useKinds(used) {
  const [added, setAdded] = useState(readKinds);
  const all = [...new Set([...added, ...used])].slice(0, MOST_KINDS);
  const add = (kind) => {
    const next = [...new Set([...all, kind])].slice(-MOST_KINDS);
    localStorage.setItem("maskline.kinds", JSON.stringify(next));
    setAdded(next);
  };
  return [all, add];
}

/** The parts to be judged, of which the first is shown and claimed. */
function useQueue(camera) {
  const [state, setState] = useState({ parts: null, waiting: 0, kinds: [], error: null });
  const done = useRef(new Set());
  const read = async () => {
    try {
      const answer = await get(path("/v1/review", { limit: LIMIT, camera }));
      const parts = answer.results.filter(({ result_id: id }) => !done.current.has(id));
      setState({ parts, waiting: answer.waiting, kinds: answer.kinds, error: null });
    } catch (error) {
      setState((old) => ({ ...old, error }));
    }
  };
  useEffect(() => {
    read();
  }, [camera]);
  const remove = (id) => setState((old) => ({ ...old, parts: old.parts?.filter((part) => part.result_id !== id) ?? null }));
  const first = (part) => setState((old) => ({ ...old, parts: [part, ...(old.parts ?? []).filter(({ result_id: id }) => id !== part.result_id)] }));
  const last = (part) => setState((old) => ({ ...old, parts: [...old.parts.filter(({ result_id: id }) => id !== part.result_id), part] }));
  return { ...state, read, remove, first, last, done: done.current };
}

/** Claim the part that is shown until another is; calls `onLost` where somebody else has it. */
function useClaim(part, done, onLost) {
  useEffect(() => {
    if (!part) return undefined;
    const url = `/v1/results/${segment(part.result_id)}`;
    let isHeld = false;
    const claim = () =>
      post(`${url}:claim`).then(
        () => {
          isHeld = true;
        },
        (error) => {
          isHeld = false;
          if (error.code === "claimed" || error.status === 404) onLost(part, error);
        },
      );
    claim();
    const timer = setInterval(claim, RENEW_MS);
    return () => {
      clearInterval(timer);
      if (isHeld && !done.has(part.result_id)) post(`${url}:release`).catch(() => {}); // it ends by itself
    };
  }, [part?.result_id]);
}

/** How others see this reviewer; two tabs with one key are told apart by the service alone. */
const me = () => session.value.name ?? REVIEWER;

export function Review() {
  const camera = route.value.query.camera ?? "";
  const queue = useQueue(camera);
  const [judged, setJudged] = useState([]);
  const [kinds, addKind] = useKinds(queue.kinds);
  const [comment, setComment] = useState(null);
  const [opacity, setOpacity] = useState(0.7);
  const [isHidden, setHidden] = useState(false);
  const zoom = useZoom();
  const part = queue.parts?.[0] ?? null;

  useClaim(part, queue.done, (lost) => {
    say(t("review.lost"));
    queue.remove(lost.result_id);
  });
  useEffect(() => on("feedback", ({ result_id: id, kind }) => kind !== "withdrawn" && !queue.done.has(id) && queue.remove(id)), []);
  // What somebody else looks at leaves the queue before it is its turn here.
  useEffect(() => on("claim", ({ result_id: id, by }) => by && by !== me() && part?.result_id !== id && queue.remove(id)));
  useEffect(() => on("inspection", ({ verdict }) => verdict !== "OK" && queue.parts?.length === 0 && queue.read()));
  useEffect(() => on("gap", queue.read));
  useEffect(() => {
    if (queue.parts?.length === 0 && queue.done.size) queue.read();
  }, [queue.parts?.length]);

  const speak = async (isDefect, defect = null) => {
    if (!part || queue.done.has(part.result_id)) return;
    const said = { part, kind: isDefect ? "defect" : "good", defect };
    queue.done.add(part.result_id);
    queue.remove(part.result_id);
    setComment(null);
    setJudged((old) => [...old, said]);
    try {
      await judge(part, isDefect, { defect, comment: comment?.trim() || null });
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
    if (!last) return;
    try {
      await withdraw(last.part);
      setJudged((old) => old.slice(0, -1));
      queue.done.delete(last.part.result_id);
      queue.first(last.part);
    } catch (error) {
      sayError(error);
    }
  };
  useKeys({
    good: () => speak(false),
    defect: () => speak(true),
    kind: (event) => kinds[event.key - 1] && speak(true, kinds[event.key - 1]),
    undo,
    comment: () => setComment(comment === null ? "" : null),
    skip: () => part && queue.last(part),
    next: () => part && queue.last(part),
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
        <select value=${camera} onChange=${(event) => go("review", null, { camera: event.target.value })}>
          <option value="">${t("filter.any")}</option>
          ${cameraNames.map((name) => html`<option value=${name}>${name}</option>`)}
        </select></label>
    </header>
    ${queue.error && html`<${Failed} error=${queue.error} />`}
    ${!queue.parts && !queue.error && html`<${Busy} />`}
    ${queue.parts && !part && html`<${Empty}>${t("review.empty")} <a href=${href("wall")}>${t("nav.wall")}</a></${Empty}>
      ${judged.length > 0 && html`<button type="button" onClick=${undo}>${t("action.undo")}</button>`}`}
    ${part &&
    html`<div class="review">
      <section class="part-picture">
        ${part.verdict === "OK" && html`<p class="sample-note">${t("review.sample")}</p>`}
        <${Picture} result=${part} opacity=${isHidden ? 0 : opacity} showsRegions=${!isHidden} zoom=${zoom}
          tools=${html`<div class="picture-tools"><${ZoomButtons} zoom=${zoom} /><${OpacitySlider} opacity=${opacity} onChange=${setOpacity} /></div>`} />
      </section>
      <div class="part-facts">
        <section class="panel">
          <${PartHead} part=${part} />
          <p>${rarity(part)}</p>
          <p class="muted"><bdi>${part.part_id ?? ""}</bdi> <bdi>${part.camera ?? ""}</bdi> ${moment(part.inspected_at)}</p>
          <p><a href=${href("parts", part.result_id)}>${t("review.all")}</a></p>
        </section>
        <${Answers} kinds=${kinds} addKind=${addKind} speak=${speak} skip=${() => queue.last(part)} undo=${judged.length ? undo : null}
          comment=${comment} setComment=${setComment} />
      </div>
    </div>
    <${Next} parts=${queue.parts.slice(1, 7)} />`}`;
}

const Key = ({ action }) => html`<kbd>${keyName(bindings.value[action])}</kbd>`;

function Answers({ kinds, addKind, speak, skip, undo, comment, setComment }) {
  const [name, setName] = useState("");
  const add = (event) => {
    event.preventDefault();
    if (name.trim()) addKind(asLabel(name));
    setName("");
  };
  return html`<section class="panel answers" aria-label=${t("review.answers")}>
    <div class="answer-row answer-main">
      <button type="button" class="answer" onClick=${() => speak(false)}><${Key} action="good" />${t("action.good")}</button>
      <button type="button" class="answer" onClick=${() => speak(true)}><${Key} action="defect" />${t("action.defect")}</button>
    </div>
    <div class="kinds">
      ${kinds.map((kind, index) => html`<button type="button" onClick=${() => speak(true, kind)}><kbd>${index + 1}</kbd><bdi class="ellipsis">${kind}</bdi></button>`)}
      <form class="add-kind" onSubmit=${add}>
        <label class="hidden-text" for="new-kind">${t("review.new_kind")}</label>
        <input id="new-kind" maxlength="128" placeholder=${t("review.new_kind")} value=${name} onInput=${(event) => setName(event.target.value)} />
        <button type="submit">+</button>
      </form>
    </div>
    <div class="answer-row">
      <button type="button" onClick=${skip}><${Key} action="skip" />${t("action.skip")}</button>
      <button type="button" disabled=${!undo} onClick=${undo}><${Key} action="undo" />${t("action.undo")}</button>
      <button type="button" aria-expanded=${comment !== null} onClick=${() => setComment(comment === null ? "" : null)}><${Key} action="comment" />${t("judge.comment")}</button>
    </div>
    ${comment !== null && html`<${Comment} comment=${comment} setComment=${setComment} />`}
  </section>`;
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

/** The parts that come next, so that their pictures are there when they do. */
function Next({ parts }) {
  return html`<ul class="strip" aria-label=${t("review.next")}>
    ${parts.map((part) => html`<li key=${part.result_id}>${part.kept === false ? html`<span class="no-picture">–</span>` : html`<img src=${pictureUrl(part.result_id, 160)} alt="" />`}</li>`)}
  </ul>
  ${parts[0] && parts[0].kept !== false && html`<link rel="prefetch" href=${pictureUrl(parts[0].result_id)} />`}`;
}
