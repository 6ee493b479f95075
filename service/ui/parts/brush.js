// A brush over a part's picture, for fingers, pens and mice; and what can be done without one.
import { html, useEffect, useRef } from "../vendor.js";
import { keyName, bindings } from "../core/keys.js";
import { t } from "../core/text.js";
import { canvasSize, LEAST_WIDTH, replay, trace } from "./mask.js";
import { errorText } from "./notice.js";

const TOOLS = ["brush", "erase", "move"];

/** What was drawn, over the picture; takes strokes while a tool that draws is chosen. */
export function MaskLayer({ mask, isHidden = false }) {
  const canvas = useRef(null);
  const stroke = useRef(null);
  const { size, small, strokes, isOpen, isRead, isBusy, tool, width } = mask;
  const scale = size ? canvasSize(size)[0] / size[0] : 1;
  useEffect(() => {
    if (!canvas.current) return;
    // Setting its size empties a canvas, so only where it is another one.
    const [wide, high] = canvasSize(size);
    if (canvas.current.width !== wide) canvas.current.width = wide;
    if (canvas.current.height !== high) canvas.current.height = high;
    const context = canvas.current.getContext("2d");
    replay(context, { base: small, strokes, scale });
    if (stroke.current) trace(context, stroke.current, scale);
  }, [size, small, strokes]);
  if (!size) return null;

  const at = ({ clientX, clientY }) => {
    const box = canvas.current.getBoundingClientRect();
    return [((clientX - box.left) / box.width) * size[0], ((clientY - box.top) / box.height) * size[1]];
  };
  const onPointerDown = (event) => {
    event.stopPropagation(); // else the picture is dragged
    if (event.button || stroke.current) return;
    event.currentTarget.setPointerCapture(event.pointerId);
    stroke.current = { tool, width, points: [at(event)], pointer: event.pointerId };
    trace(canvas.current.getContext("2d"), stroke.current, scale);
  };
  const onPointerMove = (event) => {
    if (stroke.current?.pointer !== event.pointerId) return;
    event.stopPropagation();
    const passed = event.getCoalescedEvents?.() ?? [];
    stroke.current.points.push(...(passed.length ? passed : [event]).map(at));
    trace(canvas.current.getContext("2d"), { ...stroke.current, points: stroke.current.points.slice(-passed.length - 1) }, scale);
  };
  const onPointerUp = (event) => {
    if (stroke.current?.pointer !== event.pointerId) return;
    const { pointer, ...drawn } = stroke.current;
    stroke.current = null;
    mask.change((old) => ({ strokes: [...old.strokes, drawn], isSaved: false }));
  };
  const draws = isOpen && isRead && !isBusy && tool !== "move";
  return html`<canvas ref=${canvas} class="mask-layer ${draws ? "mask-draws" : ""}" style=${{ opacity: isHidden ? 0 : 0.55 }} aria-hidden="true"
    onPointerDown=${onPointerDown} onPointerMove=${onPointerMove} onPointerUp=${onPointerUp} onPointerCancel=${onPointerUp}></canvas>`;
}

/** Opens and closes the tools. */
export function MaskButton({ mask }) {
  if (!mask.size) return null;
  return html`<button type="button" aria-expanded=${mask.isOpen} onClick=${() => mask.change({ isOpen: !mask.isOpen })}>
    <kbd>${keyName(bindings.value.brush)}</kbd>${t("mask.draw")}</button>`;
}

/** What can be done with the mask; `regions` are those that "take the found regions" means, null: the strong ones. */
export function MaskTools({ mask, hasRegions, regions = null }) {
  if (!mask.size) return null;
  if (!mask.isOpen && !mask.isDirty) return null;
  return html`<section class="panel mask-tools" aria-label=${t("mask.title")}>
    ${mask.error && html`<p class="failed" role="alert">${errorText(mask.error)} ${mask.isDirty && t("mask.kept")}
      ${!mask.isRead && html`<button type="button" onClick=${mask.read}>${t("mask.again")}</button>`}</p>`}
    ${!mask.isRead && !mask.error && html`<p class="busy" role="status">${t("state.loading")}</p>`}
    ${mask.isRead && html`<${Tools} mask=${mask} hasRegions=${hasRegions} regions=${regions} />`}
  </section>`;
}

function Tools({ mask, hasRegions, regions }) {
  const { strokes, base, isBusy, isDirty, isSaved, size } = mask;
  const isBlank = !base && !strokes.length;
  const remove = () => confirm(t("mask.delete_ask")) && mask.remove();
  return html`<div class="mask-row">
      <div class="buttons" role="group" aria-label=${t("mask.tool")}>
        ${TOOLS.map((tool) => html`<button type="button" aria-pressed=${mask.tool === tool} onClick=${() => mask.change({ tool })}>${t(`mask.tool_${tool}`)}</button>`)}
      </div>
      <label class="slider"><span>${t("mask.width")}</span>
        <input type="range" min=${LEAST_WIDTH} max=${Math.max(8, Math.round(Math.max(...size) / 6))} value=${mask.width}
          onInput=${(event) => mask.change({ width: Number(event.target.value) })} /></label>
    </div>
    <div class="buttons">
      <button type="button" disabled=${!strokes.length || isBusy} onClick=${() => mask.change({ strokes: strokes.slice(0, -1) })}>${t("mask.undo")}</button>
      <button type="button" disabled=${isBlank || isBusy} onClick=${() => mask.change({ strokes: [...strokes, { tool: "clear" }], isSaved: false })}>${t("mask.clear")}</button>
      ${hasRegions && html`<button type="button" disabled=${isBusy} onClick=${() => mask.accept(regions)}>${t(regions ? "mask.accept_chosen" : "mask.accept")}</button>`}
      <button type="button" class="primary" disabled=${!isDirty || isBusy} onClick=${mask.save}>${t("mask.save")}</button>
      ${base && html`<button type="button" class="danger" disabled=${isBusy} onClick=${remove}>${t("mask.delete")}</button>`}
    </div>
    <p class="muted" role="status">${isDirty ? t("mask.unsaved") : isSaved || base ? t("mask.saved") : t("mask.how")}</p>`;
}
