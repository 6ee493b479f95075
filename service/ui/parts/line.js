// A line over time, drawn as SVG, that says in words what it shows.
import { html } from "../vendor.js";
import { number, t } from "../core/text.js";

const WIDTH = 600;
const HEIGHT = 120;
const MARGIN = 4;

/** Places of the values in the drawing, as SVG points. */
function points(values, low, high) {
  const span = high - low || 1;
  return values
    .map((value, index) => {
      const x = MARGIN + (index / (values.length - 1)) * (WIDTH - 2 * MARGIN);
      const y = MARGIN + ((high - value) / span) * (HEIGHT - 2 * MARGIN);
      return `${x.toFixed(1)},${y.toFixed(1)}`;
    })
    .join(" ");
}

/** `title` names what is drawn; two values are the least that make a line. */
export function Line({ title, values }) {
  if (values.length < 2) return null;
  const low = Math.min(...values);
  const high = Math.max(...values);
  const words = t("line.words", {
    title,
    first: number(values[0], 4),
    last: number(values.at(-1), 4),
    low: number(low, 4),
    high: number(high, 4),
  });
  return html`<figure class="line">
    <figcaption>${title} <strong>${number(values.at(-1), 4)}</strong></figcaption>
    <div class="line-body">
      <div class="line-scale" aria-hidden="true"><span>${number(high, 3)}</span><span>${number(low, 3)}</span></div>
      <svg viewBox="0 0 ${WIDTH} ${HEIGHT}" preserveAspectRatio="none" role="img" aria-label=${words}>
        <polyline points=${points(values, low, high)} />
      </svg>
    </div>
  </figure>`;
}
