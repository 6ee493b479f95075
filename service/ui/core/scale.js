// An axis of scores: logarithmic where they are far apart, so that neither good parts nor defects
// become one bar at the edge.

const FAR_APART = 15;
const MARGIN = 0.04;

/** A scale over all values: `share` of the axis at a value, `at` a share, and round `ticks`. */
export function scaleOf(values, mostTicks = 8) {
  const finite = values.filter(Number.isFinite);
  const least = Math.min(...finite);
  const most = Math.max(...finite);
  const isLog = least > 0 && most / least > FAR_APART;
  const into = isLog ? Math.log10 : (value) => value;
  const outOf = isLog ? (place) => 10 ** place : (place) => place;
  const span = into(most) - into(least) || Math.abs(into(most)) || 1;
  const start = isLog || least < 0 ? into(least) - MARGIN * span : Math.max(0, into(least) - MARGIN * span);
  const end = into(most) + MARGIN * span;
  const share = (value) => (!isLog || value > 0 ? (into(value) - start) / (end - start) : -1);
  const at = (part) => outOf(start + part * (end - start));
  const ticks = isLog ? logTicks(at(0), at(1), mostTicks) : roundTicks(start, end, mostTicks);
  return { isLog, low: at(0), high: at(1), share, at, ticks };
}

function roundTicks(low, high, most) {
  const raw = (high - low) / most;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= raw);
  const ticks = [];
  for (let tick = Math.ceil(low / step); tick * step <= high; tick += 1) ticks.push(tick * step);
  return ticks;
}

function logTicks(low, high, most) {
  for (const factors of [[1, 2, 5], [1, 3], [1]]) {
    const ticks = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power += 1) {
      ticks.push(...factors.map((factor) => factor * 10 ** power));
    }
    const shown = ticks.filter((tick) => tick >= low && tick <= high);
    if (shown.length <= most || factors.length === 1) return shown;
  }
  return [];
}

/** Five digits that count: nobody reads more, and no slider is finer. */
export const rounded = (value) => Number(value.toPrecision(5));
