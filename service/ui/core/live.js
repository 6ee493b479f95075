// What every view may show: models, cameras and the last part of each, kept up by events.
import { batch, signal } from "../vendor.js";
import { get, segment } from "./api.js";
import { on } from "./events.js";

const REREAD_S = 60; // counts of the last hour grow old

export const models = signal(null); // as GET /v1/models says; null before it was read
export const cameras = signal(null); // rows of GET /v1/cameras by camera
export const drifts = signal(new Map()); // by model: rows of GET /v1/models/{name}/drift by camera
export const status = signal("not_ready");
/** The clock of everything that says how long ago something was; once a second. */
export const now = signal(Date.now());

export const cameraKey = (camera) => camera ?? "";

export async function readModels() {
  models.value = await get("/v1/models");
  await readDrifts();
}

/** Read what the watch over each model's cameras found. */
export async function readDrifts() {
  const answers = await Promise.all(
    models.value.models.map(({ name }) => get(`/v1/models/${segment(name)}/drift`)),
  );
  drifts.value = new Map(
    answers.map(({ model, cameras: rows }) => [model, new Map(rows.map((row) => [row.camera, row.drift]))]),
  );
}

/** What the watch says of one camera's parts; undefined where it has seen none. */
export const driftOf = (model, camera) => drifts.value.get(model)?.get(camera ?? "none");

export async function readCameras() {
  const answer = await get("/v1/cameras?hours=1");
  cameras.value = new Map(answer.cameras.map((row) => [cameraKey(row.camera), row]));
}

function inspected(part) {
  if (!cameras.value) return;
  const rows = new Map(cameras.value);
  const row = rows.get(cameraKey(part.camera)) ?? { camera: part.camera, parts: 0, warn: 0, ng: 0, takt_s: null };
  rows.set(cameraKey(part.camera), {
    ...row,
    model: part.model,
    last: part,
    parts: row.parts + 1,
    warn: row.warn + (part.verdict === "WARN"),
    ng: row.ng + (part.verdict === "NG"),
  });
  cameras.value = rows;
}

// Parts may come by the dozen a second: they are drawn together, four times a second at most.
let waiting = [];
function soon(part) {
  if (!waiting.length) {
    setTimeout(() => {
      const arrived = waiting;
      waiting = [];
      batch(() => arrived.forEach(inspected));
    }, 250);
  }
  waiting.push(part);
}

const ignore = () => {}; // the next reading says it again, and the line at the top says what is wrong

/** Begin to keep everything up. */
export function keepUp() {
  setInterval(() => {
    now.value = Date.now();
  }, 1000);
  setInterval(() => {
    readCameras().catch(ignore);
    if (models.value) readDrifts().catch(ignore);
  }, REREAD_S * 1000);
  on("inspection", soon);
  on("model", () => readModels().catch(ignore));
  on("drift", () => readDrifts().catch(ignore));
  on("state", (data) => {
    status.value = data.status;
  });
  on("gap", () => {
    readCameras().catch(ignore);
    readModels().catch(ignore);
  });
}
