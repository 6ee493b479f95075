// How many good parts may be rejected, in plain words, and what so many good parts can tell.
import { number, t } from "../core/text.js";

export const FEWEST_PARTS = 20; // with fewer, nothing that the page could say would hold
export const FIRM_PARTS = 60;
export const RATES = [0.1, 0.05, 0.02, 0.01, 0.005, 0.001];
const WELL_TOLD = 3; // parts' worth, so that one odd part does not set the threshold
const LEAST_RATE = 0.01;
const MOST_RATE = 0.1;
const MOST_TESTED_ALL = 100; // up to so many, the thorough recipe tests every part; otherwise a fifth

/** A rate as a count: "1 of 100". */
export function rateWords(rate) {
  const of = [100, 1000, 10_000, 100_000].find((count) => rate * count >= 0.995) ?? 1_000_000;
  return t("rate.of", { count: number(rate * of, 1), of: number(of) });
}

/** Of so many good parts, how many say how large scores of good parts get. */
export const testedOf = (parts, recipe) =>
  recipe === "default" && parts <= MOST_TESTED_ALL ? parts : Math.max(1, Math.round(parts / 5));

/** The rate that is taken where nobody states one. */
export const usualRate = (parts, recipe) =>
  Math.min(MOST_RATE, Math.max(LEAST_RATE, WELL_TOLD / (testedOf(parts, recipe) + 1)));

/** Whether so many good parts can promise this rate; otherwise it is an estimate. */
export const isPromised = (parts, recipe, rate) => 1 / (testedOf(parts, recipe) + 1) <= rate;
