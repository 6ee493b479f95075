// Draws which part of a picture counts: polygons by pointer, and the same points as numbers.
// Points are shares of the picture's sides, as the service's regions of interest have them.
import { html, useRef, useState } from "../vendor.js";
import { number, t } from "../core/text.js";

const KINDS = ["include", "ignore"];
const MOST_POLYGONS = 20;
const MOST_POINTS = 200;
const LEAST_POINTS = 3;
const MOST_UNDO = 100;
const NEAR_PX = 22; // a finger's reach

const within = (value) => Math.min(1, Math.max(0, Math.round(value * 1000) / 1000));

/** The polygons as the service reads them; null until there is one of three points. */
export function roiOf(polygons) {
  const whole = polygons.filter(({ points }) => points.length >= LEAST_POINTS);
  if (!whole.length) return null;
  const of = (kind) => whole.filter((polygon) => polygon.kind === kind).map(({ points }) => points);
  return { include: of("include"), ignore: of("ignore") };
}

/** Polygons, the one that is drawn on, and every step back. */
export function usePolygons() {
  const [state, setState] = useState({ polygons: [], current: 0, past: [] });
  const change = (polygons, current = state.current) =>
    setState({ polygons, current: Math.max(0, Math.min(current, polygons.length - 1)), past: [...state.past, state.polygons].slice(-MOST_UNDO) });
  const withPoints = (index, points) => state.polygons.map((polygon, at) => (at === index ? { ...polygon, points } : polygon));
  const pointsOf = (index) => state.polygons[index].points;
  return {
    ...state,
    select: (current) => setState({ ...state, current }),
    add: (kind) => state.polygons.length < MOST_POLYGONS && change([...state.polygons, { kind, points: [] }], state.polygons.length),
    remove: (index) => change(state.polygons.filter((_, at) => at !== index)),
    /** A point more; without any polygon, one that counts is begun. */
    addPoint: (point) => {
      if (!state.polygons.length) change([{ kind: "include", points: [point] }], 0);
      else if (pointsOf(state.current).length < MOST_POINTS) change(withPoints(state.current, [...pointsOf(state.current), point]));
    },
    removePoint: (index, at) => change(withPoints(index, pointsOf(index).filter((_, place) => place !== at))),
    /** Move a point; `isStep` begins what one undo takes back. */
    movePoint: (index, at, point, isStep) => {
      const polygons = withPoints(index, pointsOf(index).map((old, place) => (place === at ? point.map(within) : old)));
      if (isStep) change(polygons);
      else setState({ ...state, polygons });
    },
    undo: () => state.past.length && setState({ polygons: state.past.at(-1), current: Math.min(state.current, Math.max(0, state.past.at(-1).length - 1)), past: state.past.slice(0, -1) }),
  };
}

export function PolygonEditor({ source, editor }) {
  const [isBroken, setBroken] = useState(false);
  return html`<div class="polygons">
    <div>
      ${isBroken ? html`<p class="warned">${t("picture.not_kept")}</p>` : html`<${Drawing} source=${source} editor=${editor} onBroken=${() => setBroken(true)} />`}
      <div class="buttons">
        ${KINDS.map((kind) => html`<button type="button" onClick=${() => editor.add(kind)}>${t(`polygon.add_${kind}`)}</button>`)}
        <button type="button" disabled=${!editor.past.length} onClick=${editor.undo}>${t("action.undo")}</button>
      </div>
      <p class="muted">${t("polygon.how")}</p>
    </div>
    <div class="polygon-list">
      ${editor.polygons.map((polygon, index) => html`<${PolygonPoints} key=${index} polygon=${polygon} index=${index} editor=${editor} />`)}
    </div>
  </div>`;
}

function Drawing({ source, editor, onBroken }) {
  const [size, setSize] = useState(null);
  const held = useRef(null);
  const at = (event) => {
    const box = event.currentTarget.getBoundingClientRect();
    return [within((event.clientX - box.left) / box.width), within((event.clientY - box.top) / box.height)];
  };
  const onPointerDown = (event) => {
    if (event.button) return;
    const box = event.currentTarget.getBoundingClientRect();
    const near = nearest(editor.polygons, [event.clientX - box.left, event.clientY - box.top], box);
    event.currentTarget.setPointerCapture(event.pointerId);
    if (near) {
      held.current = { ...near, isMoved: false };
      editor.select(near.index);
    } else {
      editor.addPoint(at(event));
    }
  };
  const onPointerMove = (event) => {
    if (!held.current) return;
    editor.movePoint(held.current.index, held.current.at, at(event), !held.current.isMoved);
    held.current.isMoved = true;
  };
  const onPointerUp = () => {
    held.current = null;
  };
  return html`<div class="drawing" onPointerDown=${onPointerDown} onPointerMove=${onPointerMove} onPointerUp=${onPointerUp} onPointerCancel=${onPointerUp}>
    <img src=${source} alt=${t("polygon.picture")} draggable=${false} onError=${onBroken}
      onLoad=${(event) => setSize([event.target.naturalWidth, event.target.naturalHeight])} />
    ${size && html`<svg viewBox="0 0 ${size[0]} ${size[1]}" preserveAspectRatio="none" aria-hidden="true">
      <${Shade} polygons=${editor.polygons} size=${size} />
      ${editor.polygons.map(({ kind, points }, index) => html`<g key=${index} class="polygon polygon-${kind} ${index === editor.current ? "polygon-current" : ""}">
        <polygon points=${points.map(([x, y]) => `${x * size[0]},${y * size[1]}`).join(" ")} />
        ${points.map(([x, y]) => html`<circle cx=${x * size[0]} cy=${y * size[1]} r=${Math.max(...size) / 90} />`)}
      </g>`)}
    </svg>`}
  </div>`;
}

/** The point within a finger's reach, if there is one. */
function nearest(polygons, [x, y], box) {
  let best = null;
  polygons.forEach(({ points }, index) =>
    points.forEach(([px, py], at) => {
      const distance = Math.hypot(px * box.width - x, py * box.height - y);
      if (distance < (best?.distance ?? NEAR_PX)) best = { index, at, distance };
    }),
  );
  return best;
}

/** Darkens what does not count, as the service will see it. */
function Shade({ polygons, size }) {
  const roi = roiOf(polygons);
  if (!roi) return null;
  const path = (points) => `M${points.map(([x, y]) => `${x * size[0]} ${y * size[1]}`).join("L")}Z`;
  return html`<defs><mask id="roi-shade">
      <rect width=${size[0]} height=${size[1]} fill=${roi.include.length ? "white" : "black"} />
      ${roi.include.map((points) => html`<path d=${path(points)} fill="black" />`)}
      ${roi.ignore.map((points) => html`<path d=${path(points)} fill="white" />`)}
    </mask></defs>
    <rect class="shade" width=${size[0]} height=${size[1]} mask="url(#roi-shade)" />`;
}

function PolygonPoints({ polygon, index, editor }) {
  const [fresh, setFresh] = useState(["", ""]);
  const isCurrent = index === editor.current;
  const name = t(`polygon.name_${polygon.kind}`, { number: index + 1 });
  const change = (at, axis) => (event) => {
    const point = [...polygon.points[at]];
    point[axis] = within(Number(event.target.value) / 100);
    editor.movePoint(index, at, point, true);
  };
  const add = (event) => {
    event.preventDefault();
    if (fresh.some((text) => text === "")) return;
    editor.addPoint(fresh.map((text) => within(Number(text) / 100)));
    setFresh(["", ""]);
  };
  return html`<fieldset class=${isCurrent ? "current" : ""}>
    <legend>${name}</legend>
    <div class="buttons">
      ${!isCurrent && html`<button type="button" onClick=${() => editor.select(index)}>${t("polygon.select")}</button>`}
      <button type="button" class="danger" aria-label=${t("polygon.remove", { name })} onClick=${() => editor.remove(index)}>${t("polygon.remove_short")}</button>
    </div>
    ${polygon.points.length < LEAST_POINTS && html`<p class="muted">${t("polygon.too_few", { n: LEAST_POINTS - polygon.points.length })}</p>`}
    ${isCurrent && html`<ol class="points">${polygon.points.map(
      (point, at) => html`<li><span class="muted">${at + 1}</span>
        ${point.map((value, axis) => html`<input type="number" min="0" max="100" step="0.1" value=${Math.round(value * 1000) / 10}
          aria-label=${t(axis ? "polygon.y" : "polygon.x", { number: at + 1 })} onChange=${change(at, axis)} />`)}
        <button type="button" class="quiet" aria-label=${t("polygon.remove_point", { number: number(at + 1) })} onClick=${() => editor.removePoint(index, at)}>×</button>
      </li>`,
    )}</ol>
    <form class="new-point" onSubmit=${add}>
      ${fresh.map((text, axis) => html`<input type="number" min="0" max="100" step="0.1" required value=${text}
        aria-label=${t(axis ? "polygon.new_y" : "polygon.new_x")} placeholder=${axis ? "y %" : "x %"}
        onInput=${(event) => setFresh(fresh.map((old, place) => (place === axis ? event.target.value : old)))} />`)}
      <button type="submit" aria-label=${t("polygon.add_point")}>+</button>
    </form>`}
  </fieldset>`;
}
