// What another threshold would make of parts that were judged: computed here, so that a slider
// needs no request. The rules are the service's own (`verdict_of`), which confirms the counts.

/**
 * A preview's arrays as objects: the latest parts, and all confirmed and missed defects, however
 * old; null where nothing is recorded. `before` is what a part's calibration said of it.
 */
export function sampleOf({ parts, defects, doubtful_above: doubtfulAbove }) {
  if (!parts || !defects) return null;
  return {
    doubtfulAbove,
    parts: parts.result_id.map((id, index) => ({
      id,
      score: parts.score[index],
      before: parts.calibrated_verdict[index] ?? parts.verdict[index],
      feedback: parts.feedback[index],
    })),
    defects: defects.result_id.map((id, index) => ({
      id,
      score: defects.score[index],
      isHeldAgainst: defects.must_be_rejected[index],
    })),
  };
}

/** The groups that are told apart, in the order in which they are drawn. */
export const GROUPS = ["passed", "rejected", "false_alarm", "defect"];

/** Parts by group; defects are all that are known, the others are among the latest parts. */
export function grouped({ parts, defects }) {
  const ids = new Set(defects.map(({ id }) => id));
  const others = parts.filter(({ id }) => !ids.has(id));
  const isAlarm = (part) => part.feedback === "false_alarm";
  return {
    passed: others.filter((part) => !isAlarm(part) && part.before !== "NG"),
    rejected: others.filter((part) => !isAlarm(part) && part.before === "NG"),
    false_alarm: others.filter(isAlarm),
    defect: defects,
  };
}

/** Judge a sample by a threshold: above it a part is NG, above `doubtfulAbove` it is doubtful. */
export function outlook({ parts, defects, doubtfulAbove }, threshold) {
  const isNg = (part) => part.score > threshold;
  const passes = (part) => !isNg(part) && (doubtfulAbove === null || part.score <= doubtfulAbove);
  const strangest = (some) => some.sort((a, b) => b.score - a.score);
  const held = defects.filter((defect) => defect.isHeldAgainst);
  const missed = defects.filter((defect) => !defect.isHeldAgainst);
  const falseAlarms = parts.filter((part) => part.feedback === "false_alarm");
  return {
    compared: parts.length,
    rejected: parts.filter(isNg).length,
    toReject: strangest(parts.filter((part) => part.before !== "NG" && isNg(part))),
    toPass: strangest(parts.filter((part) => part.before === "NG" && !isNg(part))),
    defects: held.length,
    defectsPassing: strangest(held.filter(passes)),
    defectsWarned: held.filter((part) => !isNg(part) && !passes(part)).length,
    missed: missed.length,
    missedFound: missed.filter((part) => !passes(part)).length,
    falseAlarms: falseAlarms.length,
    falseAlarmsSaved: falseAlarms.filter((part) => !isNg(part)).length,
  };
}

/** The service's own counts, in the same shape. */
export function countsOf(review) {
  return {
    compared: review.compared,
    toReject: review.to_reject,
    toPass: review.to_pass,
    defects: review.defects,
    passing: review.defects_passing.length,
    missed: review.missed,
    missedFound: review.missed_found,
  };
}

/** What was counted here, as numbers. */
export function countsHere(mine) {
  return {
    compared: mine.compared,
    toReject: mine.toReject.length,
    toPass: mine.toPass.length,
    defects: mine.defects,
    passing: mine.defectsPassing.length,
    missed: mine.missed,
    missedFound: mine.missedFound,
  };
}
