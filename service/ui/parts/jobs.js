// Trainings and calibrations: kept up by events wherever the reader is, so that coming back shows them.
import { batch, html, signal } from "../vendor.js";
import { get, post, segment } from "../core/api.js";
import { on } from "../core/events.js";
import { t } from "../core/text.js";

const MOST_LOSSES = 400;

/** Jobs as GET /v1/jobs says them, the newest first; null before they were read. */
export const jobs = signal(null);
/** What was seen of each training: {furthest stage, losses}; this tab remembers it over a reload. */
export const courses = signal(remembered());

/** What a training does, in order, and the names that the service has for it. */
export const STAGES = [
  ["reading", ["near copies"]],
  ["canvas", ["canvas"]],
  ["training", ["features", "training"]],
  ["heads", ["corruption", "repair head", "fine corruption", "detail head"]],
  ["calibration", ["calibration"]],
];

export const isActive = (job) => job.state === "waiting" || job.state === "running";

/** Place of a stage in `STAGES`; -1 where the service has a new one. */
export const stageIndex = (stage) => STAGES.findIndex(([, names]) => names.includes(stage));

function remembered() {
  try {
    return new Map(JSON.parse(sessionStorage.getItem("maskline.courses") ?? "[]"));
  } catch {
    return new Map();
  }
}

/** Halve a series that has grown too long: every second value goes. */
const thinned = (values) => (values.length > MOST_LOSSES ? values.filter((_, index) => index % 2 === 0) : values);

function follow(job) {
  if (job.kind !== "training" || !job.progress) return;
  const old = courses.value.get(job.id) ?? { furthest: -1, losses: [] };
  const { stage, loss } = job.progress;
  const place = stageIndex(stage);
  // Models that are trained for testing only have a loss of their own, which is not drawn.
  const isNew = typeof loss === "number" && loss !== old.losses.at(-1) && place >= old.furthest;
  const course = {
    furthest: Math.max(old.furthest, place),
    losses: isNew ? thinned([...old.losses, loss]) : old.losses,
  };
  courses.value = new Map([...[...courses.value].filter(([id]) => id !== job.id).slice(-4), [job.id, course]]);
  try {
    sessionStorage.setItem("maskline.courses", JSON.stringify([...courses.value]));
  } catch {
    // a full storage costs the beginning of a line after a reload, and nothing else
  }
}

const byAge = (a, b) => (a.id < b.id ? 1 : -1); // ids sort by time

function arrived(job) {
  batch(() => {
    follow(job);
    const others = (jobs.value ?? []).filter(({ id }) => id !== job.id);
    jobs.value = [job, ...others].sort(byAge);
  });
}

export async function readJobs() {
  const answer = await get("/v1/jobs");
  batch(() => {
    jobs.value = [...answer.jobs].sort(byAge);
    jobs.value.forEach(follow);
  });
}

on("job", arrived);
on("gap", () => jobs.value && readJobs().catch(() => {})); // the next reading says it again

export async function stopJob(job) {
  arrived(await post(`/v1/jobs/${segment(job.id)}:stop`));
}

export async function resumeJob(job) {
  arrived(await post(`/v1/jobs/${segment(job.id)}:resume`));
}

export async function beginTraining(training) {
  const job = await post("/v1/trainings", training);
  arrived(job);
  return job;
}

export const JobState = ({ job }) =>
  html`<span class="job-state job-${job.state}">${t(`job.${job.state}`)}</span>`;
