// What a region is called: by its kind, as unknown, or not at all.
import { html } from "../vendor.js";
import { number, t } from "../core/text.js";

const UNKNOWN = "unknown"; // like none of the kinds that people have named

/** The kind a region was found to be of, which somebody may confirm; null where there is none. */
export const guessOf = (region) => (region?.kind && region.kind !== UNKNOWN ? region.kind : null);

/** A region's kind for a label; null where nothing was learned yet. */
export const kindText = (region) => (region.kind === UNKNOWN ? t("kind.unknown") : (region.kind ?? null));

/** Whether any place of a part was named. */
export const isNamed = (part) => part.regions.some(({ kind }) => kind);

/** A region's kind, with the p-value of its being one. */
export function KindName({ region }) {
  if (!region.kind) return "–";
  const rank = region.kind_p ?? null;
  return html`<bdi>${kindText(region)}</bdi>${rank !== null && html` <small>${t("kind.p", { p: number(rank) })}</small>`}`;
}

/** The kinds of a part's places in one line, each once, the strongest first. */
export function KindLine({ part }) {
  if (!isNamed(part)) return null;
  const names = [...new Set(part.regions.map(kindText).filter(Boolean))];
  return html`<span class="kind-line ellipsis"><span class="hidden-text">${t("kind.kinds")}: </span><bdi>${names.join(", ")}</bdi></span>`;
}

/**
 * That a line's rule let a part pass which its calibration rejects.
 *
 * What is stored of it: the calibration's verdict, and a score above the threshold that was asked for.
 */
function excuseOf(part) {
  if (part.excused) return part.excused;
  const isExcused = part.calibrated_verdict === "NG" && part.verdict !== "NG" && part.score > part.threshold;
  return isExcused ? { verdict: "NG", kinds: [...new Set(part.regions.map(guessOf).filter(Boolean))] } : null;
}

/** Says so, with the kinds that the rule is for. */
export function Excused({ part }) {
  const excuse = excuseOf(part);
  if (!excuse) return null;
  return html`<span class="excused">${t("kind.excused", { verdict: t(`verdict.${excuse.verdict}`), kinds: excuse.kinds.join(", ") })}</span>`;
}
