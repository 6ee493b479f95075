// Scores of parts as one row of bars a group, over one axis, with the thresholds as lines. Each
// row has its own height: ten defects are to be seen beside a thousand good parts.
import { html, useEffect, useMemo, useRef, useState } from "../vendor.js";
import { GROUPS, grouped } from "../core/outlook.js";
import { rounded, scaleOf } from "../core/scale.js";
import { number, t } from "../core/text.js";
import { Scroller } from "./scroller.js";

const BINS = 60;
const ROW_PX = { passed: 96, rejected: 46, false_alarm: 46, defect: 46 };
const LABEL_PX = 20;
const AXIS_PX = 24;
const STEPS = 1000; // of the slider

function useWidth() {
  const element = useRef(null);
  const [width, setWidth] = useState(600);
  useEffect(() => {
    const observer = new ResizeObserver(([entry]) => setWidth(Math.max(200, Math.round(entry.contentRect.width))));
    observer.observe(element.current);
    return () => observer.disconnect();
  }, []);
  return [element, width];
}

/** Rows of counts over a scale that reaches all scores and both thresholds. */
function binned(sample, serving) {
  const groups = grouped(sample);
  const scores = Object.values(groups).flatMap((parts) => parts.map(({ score }) => score));
  const scale = scaleOf([...scores, serving, 1.25 * serving]);
  const rows = GROUPS.map((name) => {
    const counts = new Array(BINS).fill(0);
    for (const { score } of groups[name]) {
      counts[Math.min(BINS - 1, Math.max(0, Math.floor(scale.share(score) * BINS)))] += 1;
    }
    return { name, counts, total: groups[name].length };
  });
  return { scale, rows };
}

/** Scores of a sample; `tried` is a threshold that `onTry` moves, `serving` the one that serves. */
export function Histogram({ sample, serving, tried, onTry }) {
  const [element, width] = useWidth();
  const { scale, rows } = useMemo(() => binned(sample, serving), [sample, serving]);
  const height = GROUPS.reduce((sum, name) => sum + ROW_PX[name] + LABEL_PX, 0) + AXIS_PX;
  const place = (value) => Math.min(1, Math.max(0, scale.share(value))) * width;
  const isDragged = useRef(false);
  const move = (event) => {
    const box = event.currentTarget.getBoundingClientRect();
    const share = Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
    onTry(rounded(Math.max(scale.at(share), Number.MIN_VALUE)));
  };
  const onPointerDown = (event) => {
    isDragged.current = true;
    event.currentTarget.setPointerCapture(event.pointerId);
    move(event);
  };
  const onPointerUp = () => {
    isDragged.current = false;
  };
  return html`<figure class="histogram" ref=${element}>
    <svg width=${width} height=${height} viewBox="0 0 ${width} ${height}" role="img" aria-labelledby="histogram-title histogram-text"
      onPointerDown=${onPointerDown} onPointerMove=${(event) => isDragged.current && move(event)}
      onPointerUp=${onPointerUp} onPointerCancel=${onPointerUp}>
      <title id="histogram-title">${t("histogram.title", { n: sample.parts.length })}</title>
      <desc id="histogram-text">${describe(rows, serving, tried)}</desc>
      <${Patterns} />
      <${Rows} rows=${rows} width=${width} />
      <${Axis} scale=${scale} width=${width} height=${height} />
      <line class="line-serving" x1=${place(serving)} x2=${place(serving)} y1="0" y2=${height - AXIS_PX} />
      <line class="line-tried" x1=${place(tried)} x2=${place(tried)} y1="0" y2=${height - AXIS_PX} />
      <path class="grip" d="M${place(tried) - 8} ${height - AXIS_PX + 10} l8 -10 l8 10 z" />
    </svg>
    <input type="range" class="histogram-slider" min="0" max=${STEPS} step="1" aria-label=${t("whatif.threshold")}
      value=${Math.round((place(tried) / width) * STEPS)} aria-valuetext=${number(tried, 4)}
      onInput=${(event) => onTry(rounded(Math.max(scale.at(event.target.value / STEPS), Number.MIN_VALUE)))} />
    <figcaption>
      <span class="key key-serving">${t("histogram.serving", { value: number(serving, 4) })}</span>
      <span class="key key-tried">${t("histogram.tried", { value: number(tried, 4) })}</span>
      ${scale.isLog && html`<span>${t("histogram.log")}</span>`}
    </figcaption>
    <${Numbers} rows=${rows} scale=${scale} />
  </figure>`;
}

function describe(rows, serving, tried) {
  const counts = rows.map(({ name, total }) => `${t(`histogram.${name}`)}: ${number(total)}`).join("; ");
  return `${counts}. ${t("histogram.serving", { value: number(serving, 4) })}; ${t("histogram.tried", { value: number(tried, 4) })}.`;
}

const Patterns = () => html`<defs>
  <pattern id="hatch-rejected" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">
    <rect class="tone-rejected" width="6" height="6" /><path class="ink-rejected" d="M0 0v6" /></pattern>
  <pattern id="dots-false_alarm" width="6" height="6" patternUnits="userSpaceOnUse">
    <rect class="tone-false_alarm" width="6" height="6" /><circle class="ink-false_alarm" cx="3" cy="3" r="1.4" /></pattern>
  <pattern id="cross-defect" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">
    <rect class="tone-defect" width="6" height="6" /><path class="ink-defect" d="M0 3h6M3 0v6" /></pattern>
</defs>`;

const FILLS = {
  passed: "",
  rejected: "url(#hatch-rejected)",
  false_alarm: "url(#dots-false_alarm)",
  defect: "url(#cross-defect)",
};

function Rows({ rows, width }) {
  let top = 0;
  return rows.map(({ name, counts, total }) => {
    const most = Math.max(1, ...counts);
    const floor = top + LABEL_PX + ROW_PX[name];
    const label = top + LABEL_PX - 5;
    top = floor;
    return html`<g key=${name}>
      <text class="row-label" x="2" y=${label}>${t(`histogram.${name}`)} · ${number(total)}</text>
      <line class="floor" x1="0" x2=${width} y1=${floor} y2=${floor} />
      ${counts.map((count, bin) => {
        if (!count) return null;
        const tall = Math.max(4, (count / most) * (ROW_PX[name] - 4));
        return html`<rect class="bar bar-${name}" fill=${FILLS[name] || null} x=${(bin * width) / BINS} width=${Math.max(2, width / BINS - 1)} y=${floor - tall} height=${tall} />`;
      })}
    </g>`;
  });
}

function Axis({ scale, width, height }) {
  return scale.ticks.map((tick) => {
    const x = scale.share(tick) * width;
    const anchor = x < 20 ? "start" : x > width - 20 ? "end" : "middle";
    return html`<g key=${tick}>
      <line class="tick" x1=${x} x2=${x} y1=${height - AXIS_PX} y2=${height - AXIS_PX + 4} />
      <text class="tick-label" x=${x} y=${height - 5} text-anchor=${anchor}>${number(tick, 3)}</text>
    </g>`;
  });
}

/** The same in numbers, by tens of bins, for who cannot see the bars. */
function Numbers({ rows, scale }) {
  const step = BINS / 12;
  const steps = Array.from({ length: 12 }, (_, index) => index * step);
  const sum = (counts, from) => counts.slice(from, from + step).reduce((a, b) => a + b, 0);
  return html`<details>
    <summary>${t("histogram.table")}</summary>
    <${Scroller} label=${t("histogram.table")}><table class="rows">
      <thead><tr><th scope="col">${t("histogram.scores")}</th>${rows.map(({ name }) => html`<th scope="col">${t(`histogram.${name}`)}</th>`)}</tr></thead>
      <tbody>${steps.map(
        (from) => html`<tr><th scope="row">${number(scale.at(from / BINS), 3)} – ${number(scale.at((from + step) / BINS), 3)}</th>
          ${rows.map(({ counts }) => html`<td>${number(sum(counts, from))}</td>`)}</tr>`,
      )}</tbody>
    </table></${Scroller}>
  </details>`;
}
