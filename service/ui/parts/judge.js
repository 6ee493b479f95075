// What a person says of a part, and takes back.
import { post, segment } from "../core/api.js";

/** What "good" and "defect" mean after a verdict: a rejected part was one, or it was not. */
export function kindOf(part, isDefect) {
  if (part.verdict === "NG") return isDefect ? "confirmed_defect" : "false_alarm";
  return isDefect ? "missed_defect" : "confirmed_good";
}

/** `regions` are those that `defect` names, by their places in the list; null: all strong ones. */
export function judge(part, isDefect, { defect = null, comment = null, regions = null } = {}) {
  const said = { kind: kindOf(part, isDefect) };
  if (defect) said.defect = defect;
  if (defect && regions) said.regions = regions;
  if (comment) said.comment = comment;
  return post(`/v1/results/${segment(part.result_id)}/feedback`, said);
}

export const withdraw = (part) =>
  post(`/v1/results/${segment(part.result_id)}/feedback`, { kind: "withdrawn" });
