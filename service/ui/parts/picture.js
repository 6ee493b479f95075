// A part's picture with its map over it: opacity, zoom, panning, regions.
import { html, useEffect, useRef, useState } from "../vendor.js";
import { path, segment } from "../core/api.js";
import { number, t } from "../core/text.js";
import { paint, TABLE } from "./colours.js";
import { kindText } from "./kindwords.js";

const MOST_ZOOM = 12;
const PICTURE_PX = 1024;
const MAP_PX = 1600; // the longest side on which a map is painted

export const pictureUrl = (resultId, side = PICTURE_PX, overlay = false) =>
  path(`/v1/results/${segment(resultId)}/thumbnail`, { side, overlay: overlay || null });

/** Read a map's grey values; null where it is not kept any more. */
async function readMap(resultId, abort) {
  const answer = await fetch(`/v1/results/${segment(resultId)}/map`, { signal: abort });
  if (!answer.ok) return null;
  const threshold = Number(answer.headers.get("X-Maskline-Map-Threshold"));
  const bitmap = await createImageBitmap(await answer.blob());
  const scale = Math.min(1, MAP_PX / Math.max(bitmap.width, bitmap.height));
  const width = Math.max(1, Math.round(bitmap.width * scale));
  const height = Math.max(1, Math.round(bitmap.height * scale));
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0, width, height);
  const { data } = context.getImageData(0, 0, width, height);
  const grey = new Uint8Array(width * height);
  for (let i = 0; i < grey.length; i += 1) grey[i] = data[i * 4];
  return { grey, width, height, source: [bitmap.width, bitmap.height], threshold };
}

/** What the zoom buttons, the keys, the wheel and fingers change; `fit` is all of the picture. */
export function useZoom() {
  const [view, setView] = useState({ zoom: 1, x: 0, y: 0 });
  const by = (factor) =>
    setView((old) => {
      const zoom = Math.min(MOST_ZOOM, Math.max(1, old.zoom * factor));
      const ratio = zoom / old.zoom;
      return zoom === 1 ? { zoom: 1, x: 0, y: 0 } : { zoom, x: old.x * ratio, y: old.y * ratio };
    });
  const move = (dx, dy) => setView((old) => (old.zoom === 1 ? old : { ...old, x: old.x + dx, y: old.y + dy }));
  return { view, by, move, fit: () => setView({ zoom: 1, x: 0, y: 0 }) };
}

/**
 * The picture of a result and the scale of its map; `opacity` 0 to 1 is the map's, `source` another
 * address of the picture. `onSize` gets the map's [width, height], `over` lies over everything;
 * regions whose places `chosen` holds stand out, and `onChoose` gets the place of one that is clicked.
 */
export function Picture({ result, opacity = 0.7, zoom, showsRegions = true, tools = null, source = null, onSize, over = null, chosen, onChoose }) {
  const canvas = useRef(null);
  const [map, setMap] = useState(null);
  const [isGone, setGone] = useState(false);
  const drag = useRef(null);
  const { view, by, move } = zoom;

  useEffect(() => {
    const abort = new AbortController();
    setMap(null);
    setGone(false);
    zoom.fit();
    if (result.kept !== false) {
      readMap(result.result_id, abort.signal).then(
        (read) => {
          setMap(read);
          if (read) onSize?.(read.source);
        },
        () => {},
      );
    }
    return () => abort.abort();
  }, [result.result_id]);

  useEffect(() => {
    if (!map || !canvas.current) return;
    canvas.current.width = map.width;
    canvas.current.height = map.height;
    canvas.current.getContext("2d").putImageData(paint(map.grey, map.width, map.height), 0, 0);
  }, [map]);

  if (isGone || result.kept === false) {
    return html`<div class="picture picture-gone"><p>${t("picture.not_kept")}</p></div>${tools}`;
  }
  const transform = `translate(${view.x}px, ${view.y}px) scale(${view.zoom})`;
  const onPointerDown = (event) => {
    drag.current = [event.clientX, event.clientY];
    event.currentTarget.setPointerCapture(event.pointerId);
  };
  const onPointerMove = (event) => {
    if (!drag.current) return;
    move(event.clientX - drag.current[0], event.clientY - drag.current[1]);
    drag.current = [event.clientX, event.clientY];
  };
  const onPointerUp = () => {
    drag.current = null;
  };
  const onWheel = (event) => {
    event.preventDefault();
    by(event.deltaY < 0 ? 1.25 : 0.8);
  };
  return html`<div
    class="picture"
    onPointerDown=${onPointerDown}
    onPointerMove=${onPointerMove}
    onPointerUp=${onPointerUp}
    onPointerCancel=${onPointerUp}
    onWheel=${onWheel}
  >
    <div class="picture-layers" style=${{ transform }}>
      <img
        src=${source ?? pictureUrl(result.result_id)}
        alt=${t("picture.alt", { part: result.part_id ?? result.result_id.slice(0, 8) })}
        draggable=${false}
        onError=${() => setGone(true)}
      />
      <canvas ref=${canvas} style=${{ opacity }} aria-hidden="true"></canvas>
      ${showsRegions && map && html`<${Regions} result=${result} size=${map.source} chosen=${chosen} />
        <${Labels} result=${result} size=${map.source} zoom=${view.zoom} chosen=${chosen} onChoose=${onChoose} />`}
      ${over}
    </div>
  </div>
  ${tools}
  ${map && html`<${Legend} threshold=${map.threshold} />`}`;
}

function Regions({ result, size, chosen = [] }) {
  const [width, height] = size;
  const unit = Math.max(width, height) / 100;
  return html`<svg class="regions" viewBox="0 0 ${width} ${height}" preserveAspectRatio="none" aria-hidden="true">
    ${result.regions.map(
      ({ bbox: [x, y, w, h] }, index) => html`<rect class=${chosen.includes(index) ? "chosen" : ""} x=${x - unit} y=${y - unit} width=${w + 2 * unit} height=${h + 2 * unit} />`,
    )}
  </svg>`;
}

/** Number and kind of each region beside it; a mouse may choose one by them, keys by the list. */
function Labels({ result, size: [width, height], zoom, chosen = [], onChoose }) {
  const isAlone = result.regions.length === 1;
  const hold = (event) => event.stopPropagation(); // else the picture is dragged, and takes the click
  return html`<div class="region-labels" aria-hidden="true">
    ${result.regions.map((region, index) => {
      const text = [isAlone && !onChoose ? null : index + 1, kindText(region)].filter(Boolean).join(" ");
      const place = { left: `${(100 * region.bbox[0]) / width}%`, top: `${(100 * region.bbox[1]) / height}%`, transform: `translateY(-100%) scale(${1 / zoom})` };
      return text && html`<span class="region-label ${chosen.includes(index) ? "chosen" : ""} ${onChoose ? "choosable" : ""}" style=${place}
        onPointerDown=${onChoose ? hold : null} onClick=${onChoose ? () => onChoose(index) : null}>${text}</span>`;
    })}
  </div>`;
}

/** The fixed scale of every map, in units of the threshold. */
function Legend({ threshold }) {
  const stops = TABLE.filter((_, grey) => grey % 32 === 0 || grey === 255);
  const colours = stops.map(([r, g, b, a]) => `rgb(${r} ${g} ${b} / ${Math.max(0.08, a / 255)})`).join(", ");
  return html`<figure class="legend">
    <figcaption>${t("legend.title")}</figcaption>
    <div class="legend-bar" style=${{ background: `linear-gradient(to right, ${colours})` }}>
      <span class="legend-mark"></span>
    </div>
    <div class="legend-labels">
      <span>0</span><span>${t("legend.threshold", { value: number(threshold) })}</span><span>${number(2 * threshold)}</span>
    </div>
  </figure>`;
}

export function ZoomButtons({ zoom }) {
  return html`<div class="buttons" role="group" aria-label=${t("picture.zoom")}>
    <button type="button" onClick=${() => zoom.by(1.5)} title=${t("keys.zoom_in")} aria-label=${t("keys.zoom_in")}>+</button>
    <button type="button" onClick=${() => zoom.by(1 / 1.5)} title=${t("keys.zoom_out")} aria-label=${t("keys.zoom_out")}>−</button>
    <button type="button" onClick=${zoom.fit} title=${t("keys.zoom_reset")} aria-label=${t("keys.zoom_reset")}>⤢</button>
  </div>`;
}

export function OpacitySlider({ opacity, onChange }) {
  return html`<label class="slider">
    <span>${t("picture.map")}</span>
    <input type="range" min="0" max="100" value=${Math.round(opacity * 100)} onInput=${(event) => onChange(event.target.value / 100)} />
  </label>`;
}
