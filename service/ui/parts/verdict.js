// A verdict by shape, word and place: never by colour alone.
import { html } from "../vendor.js";
import { t } from "../core/text.js";

// Made anew each time: an element that is drawn again would keep the tree it was drawn in first.
const SHAPES = {
  OK: () => html`<circle cx="12" cy="12" r="9" /><path d="m8 12.5 2.7 2.7L16 9.5" />`,
  WARN: () => html`<path d="M12 3.5 21.5 20h-19z" /><path d="M12 9.5v5M12 17v.5" />`,
  NG: () => html`<path d="M8.3 3h7.4L21 8.3v7.4L15.7 21H8.3L3 15.7V8.3z" /><path d="m9 9 6 6m0-6-6 6" />`,
  NONE: () => html`<path d="M4 4h16v16H4z" stroke-dasharray="3 3" /><path d="M8 12h8" />`,
};
const PLACES = ["OK", "WARN", "NG"];

export function Glyph({ verdict }) {
  return html`<svg class="glyph glyph-${verdict}" viewBox="0 0 24 24" aria-hidden="true">${SHAPES[verdict]?.()}</svg>`;
}

/** A verdict as a badge: glyph and word. */
export function Badge({ verdict }) {
  const name = verdict ?? "NONE";
  return html`<span class="badge badge-${name}"><${Glyph} verdict=${name} />${t(`verdict.${name}`)}</span>`;
}

/** Three places side by side, of which the verdict's is lit: readable from the other end of a hall. */
export function Lamp({ verdict }) {
  return html`<div class="lamp" role="img" aria-label=${t(`verdict.${verdict ?? "NONE"}`)}>
    ${PLACES.map(
      (place) => html`<span class="lamp-place ${place === verdict ? `lit lit-${place}` : ""}" aria-hidden="true">
        <${Glyph} verdict=${place} />${place === verdict && t(`verdict.${place}`)}
      </span>`,
    )}
  </div>`;
}

const SAYABLE = new Set(["false_alarm", "confirmed_defect", "missed_defect", "confirmed_good"]);

/** What people said of a part. */
export function Said({ kind, defect }) {
  if (!kind || !SAYABLE.has(kind)) return null;
  return html`<span class="said">${t(`feedback.${kind}`)}${defect ? html` · <bdi>${defect}</bdi>` : ""}</span>`;
}
