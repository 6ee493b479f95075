// The mask of a part: which of its pixels are the defect, as people drew or accepted them.
// Strokes are kept as lines in the picture's pixels until they are saved: they are shown on a small
// canvas, and drawn anew at full size for what is sent.
import { useEffect, useRef, useState } from "../vendor.js";
import { ask, get, post, segment } from "../core/api.js";
import { holdOn } from "../core/route.js";
import { t } from "../core/text.js";

const CANVAS_PX = 1600; // the longest side on which strokes are shown
const HALVED_FROM_PX = 8_000_000; // a map of as many pixels may be smaller than its picture
const SOLID = 128; // from this opacity on a pixel is part of the mask
export const COLOUR = [0, 229, 255];
export const LEAST_WIDTH = 2;

const fresh = (id) => ({ id, isOpen: false, size: null, isRead: false, base: null, small: null, strokes: [], tool: "brush", width: null, isBusy: false, isSaved: false, error: null });

/** The size that a canvas over a picture of this size has. */
export function canvasSize([width, height]) {
  const scale = Math.min(1, CANVAS_PX / Math.max(width, height));
  return [Math.max(1, Math.round(width * scale)), Math.max(1, Math.round(height * scale))];
}

/** Draw one stroke, whose points and width are in the picture's pixels, on a canvas of `scale`. */
export function trace(context, { tool, width, points }, scale) {
  context.globalCompositeOperation = tool === "erase" ? "destination-out" : "source-over";
  context.fillStyle = context.strokeStyle = `rgb(${COLOUR.join(" ")})`;
  context.lineCap = context.lineJoin = "round";
  context.lineWidth = width * scale;
  const [[x, y]] = points;
  context.beginPath();
  context.arc(x * scale, y * scale, (width * scale) / 2, 0, 2 * Math.PI);
  context.fill();
  context.beginPath();
  context.moveTo(x * scale, y * scale);
  for (const [px, py] of points) context.lineTo(px * scale, py * scale);
  context.stroke();
}

/** Draw the stored mask and every stroke since. */
export function replay(context, { base, strokes, scale }) {
  context.globalCompositeOperation = "source-over";
  context.clearRect(0, 0, context.canvas.width, context.canvas.height);
  if (base) context.drawImage(base, 0, 0);
  for (const stroke of strokes) {
    if (stroke.tool === "clear") context.clearRect(0, 0, context.canvas.width, context.canvas.height);
    else trace(context, stroke, scale);
  }
}

/** A stored mask in the brush's colour, of the size that is asked for. */
async function coloured(blob, [width, height]) {
  const bitmap = await createImageBitmap(blob);
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingEnabled = bitmap.width !== width;
  context.drawImage(bitmap, 0, 0, width, height);
  const image = context.getImageData(0, 0, width, height);
  const { data } = image;
  for (let at = 0; at < data.length; at += 4) {
    if (data[at] && data[at + 3]) data.set([...COLOUR, 255], at);
    else data[at + 3] = 0;
  }
  context.putImageData(image, 0, 0);
  return canvas;
}

/** The mask as PNG in the picture's size, white on nothing; null where no pixel is left of it. */
async function encoded({ base, strokes, size: [width, height] }) {
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  replay(context, { base: base && (await coloured(base, [width, height])), strokes, scale: 1 });
  const image = context.getImageData(0, 0, width, height);
  const { data } = image;
  const out = new Uint32Array(data.buffer);
  let count = 0;
  for (let at = 0; at < out.length; at += 1) {
    const isDefect = data[4 * at + 3] >= SOLID;
    out[at] = isDefect ? 0xffffffff : 0;
    count += isDefect;
  }
  if (!count) return null;
  context.putImageData(image, 0, 0);
  return canvas.convertToBlob({ type: "image/png" });
}

/** The size of the picture itself, where its map may be smaller; the map's where browsers do not read it. */
async function pictureSize(url, mapSize) {
  if (mapSize[0] * mapSize[1] < HALVED_FROM_PX) return mapSize;
  try {
    const bitmap = await createImageBitmap(await ask("GET", `${url}/image`, { asBlob: true }));
    const size = [bitmap.width, bitmap.height];
    bitmap.close();
    return size;
  } catch {
    return mapSize;
  }
}

/**
 * The mask of a part (null: of none), with what was drawn and not saved yet.
 *
 * Nothing that was drawn is lost unasked: a refused or failed saving keeps it, and whoever leaves
 * the page, the view or the part is asked (`letGo`).
 */
export function useMask(part) {
  const id = part?.result_id ?? null;
  const holder = useRef(fresh(id));
  const drafts = useRef(new Map()); // of parts that are not shown now, but come back where a request failed
  const [, draw] = useState(0);
  if (holder.current.id !== id) {
    if (holder.current.strokes.length) drafts.current.set(holder.current.id, holder.current);
    holder.current = drafts.current.get(id) ?? fresh(id);
    drafts.current.delete(id);
  }
  const state = holder.current;
  const url = `/v1/results/${segment(id ?? "")}`;
  /** What comes late is not for the part that is shown by then. */
  const change = (changes) => {
    if (holder.current.id !== id) return;
    holder.current = { ...holder.current, ...(typeof changes === "function" ? changes(holder.current) : changes) };
    draw((count) => count + 1);
  };
  const isDirty = () => holder.current.strokes.length > 0 || drafts.current.size > 0;
  /** Whether what was drawn may go, which the reader is asked; if so, it is gone. */
  const letGo = () => {
    if (!isDirty()) return true;
    if (!confirm(t("mask.leave"))) return false;
    drafts.current.clear();
    change({ strokes: [] });
    return true;
  };
  const keep = async (blob, changes = {}) => {
    const small = blob && (await coloured(blob, canvasSize(holder.current.size)));
    change({ base: blob, small, isRead: true, error: null, ...changes });
  };
  const read = async () => {
    try {
      const isThere = part.mask ?? (await get(url)).mask;
      await keep(isThere ? await ask("GET", `${url}/mask`, { asBlob: true }) : null);
    } catch (error) {
      if (error.code === "mask_missing") await keep(null);
      else change({ error });
    }
  };
  /** Do something with the service's mask; what goes wrong is said, and changes nothing here. */
  const work = async (step) => {
    change({ isBusy: true, error: null });
    try {
      await step();
      change({ isBusy: false });
      return true;
    } catch (error) {
      change({ isBusy: false, error });
      return false;
    }
  };
  const save = () =>
    work(async () => {
      const { strokes } = holder.current;
      const blob = await encoded(holder.current);
      if (blob) await ask("PUT", `${url}/mask`, { body: blob, headers: { "Content-Type": "image/png" } });
      else if (holder.current.base) await ask("DELETE", `${url}/mask`);
      await keep(blob);
      change((old) => ({ strokes: old.strokes.slice(strokes.length), isSaved: blob !== null }));
    });
  const accept = (regions) =>
    work(async () => {
      await post(`${url}:accept`, { regions });
      await keep(await ask("GET", `${url}/mask`, { asBlob: true }), { isSaved: true });
    });
  const remove = () =>
    work(async () => {
      await ask("DELETE", `${url}/mask`);
      await keep(null, { isSaved: false });
    });
  const sizeIs = async (mapSize) => {
    const size = await pictureSize(url, mapSize);
    change({ size, width: Math.max(LEAST_WIDTH, Math.round(Math.max(...size) / 40)) });
  };

  useEffect(() => {
    if (state.size && !state.isRead && (part.mask || state.isOpen)) read();
  }, [id, state.size, state.isOpen, part?.mask]);
  const latest = useRef(letGo); // what it changes is the part that is shown then
  latest.current = letGo;
  useEffect(() => {
    const stay = (event) => isDirty() && event.preventDefault();
    addEventListener("beforeunload", stay);
    const leave = holdOn(() => latest.current());
    return () => {
      removeEventListener("beforeunload", stay);
      leave();
    };
  }, []);
  return { ...state, isDirty: state.strokes.length > 0, letGo, change, save, accept, remove, sizeIs, read };
}
