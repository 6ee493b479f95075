// Sends pictures of good parts in small requests, one after the other; goes on while other views are shown.
import { signal } from "../vendor.js";
import { ask, segment } from "../core/api.js";

const MOST_FILES = 20;
const MOST_BYTES = 20_000_000;
const MOST_TRIES = 5;
const WAIT_MS = 2000;
const MOST_NAMED = 100;
const PICTURE = /\.(jpe?g|png|tiff?|bmp|webp)$/i;
const PASSING = new Set([0, 429, 502, 503, 504]); // what may be otherwise in a moment
const LASTING = new Set([401, 403, 404, 409, 507]); // what the next file would be told as well

/** The upload under way or the last one; null before any. */
export const upload = signal(null);
let abort = null;
let left = []; // requests that are still to be sent

addEventListener("beforeunload", (event) => {
  if (upload.value?.isBusy) event.preventDefault();
});

/** Split what was chosen into pictures and the rest, which a folder often holds as well. */
export function sorted(files) {
  const pictures = files.filter((file) => PICTURE.test(file.name) || file.type.startsWith("image/"));
  return { pictures, others: files.length - pictures.length };
}

/** Files of what was dropped, those in folders as well. */
export async function droppedFiles(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.length) return [...transfer.files];
  return (await Promise.all(entries.map(filesOf))).flat();
}

async function filesOf(entry) {
  if (entry.isFile) return [await new Promise((done, failed) => entry.file(done, failed))];
  const reader = entry.createReader();
  const entries = [];
  for (;;) {
    const some = await new Promise((done, failed) => reader.readEntries(done, failed)); // a hundred at a time
    if (!some.length) break;
    entries.push(...some);
  }
  return (await Promise.all(entries.map(filesOf))).flat();
}

function chunks(files) {
  const all = [];
  let bytes = Infinity;
  for (const file of files) {
    if (bytes + file.size > MOST_BYTES || all.at(-1).length === MOST_FILES) {
      all.push([]);
      bytes = 0;
    }
    all.at(-1).push(file);
    bytes += file.size;
  }
  return all;
}

async function send(name, files) {
  const body = new FormData();
  for (const file of files) body.append("file", file, file.name);
  for (let tries = 1; ; tries += 1) {
    try {
      // What arrived before a break is a duplicate the second time, and harmless.
      return await ask("POST", `/v1/datasets/${segment(name)}`, { body, signal: abort.signal });
    } catch (error) {
      if (error.name === "AbortError" || !PASSING.has(error.status) || tries === MOST_TRIES) throw error;
      await new Promise((done) => setTimeout(done, WAIT_MS * tries));
    }
  }
}

function count(files, answer) {
  const old = upload.value;
  upload.value = {
    ...old,
    done: old.done + files.length,
    added: old.added + answer.added,
    copies: old.copies + answer.copies,
    refused: [...old.refused, ...answer.refused].slice(0, MOST_NAMED),
    refusedCount: old.refusedCount + answer.refused.length,
  };
}

const refusal = (file, { code, detail }) => ({ added: 0, copies: 0, refused: [{ file: file.name, error: { code, detail } }] });

/** Send one request's files; returns what is still to be sent of them, where it was refused as a whole. */
async function deliver(name, files) {
  try {
    count(files, await send(name, files));
  } catch (error) {
    if (error.name === "AbortError" || LASTING.has(error.status) || PASSING.has(error.status)) throw error;
    if (files.length > 1) return files.map((file) => [file]); // to learn which of them it was
    count(files, refusal(files[0], error));
  }
  return [];
}

/** Send good parts to a set; `upload` says how far it is. */
export function uploadParts(name, pictures, others = 0) {
  upload.value = {
    name, others, isBusy: true, isStopped: false, error: null, total: pictures.length, done: 0, added: 0,
    copies: 0, refused: [], refusedCount: 0,
  };
  left = chunks(pictures);
  return work();
}

/** Go on where an upload was stopped or failed. */
export function resumeUpload() {
  upload.value = { ...upload.value, isBusy: true, isStopped: false, error: null };
  return work();
}

async function work() {
  abort = new AbortController();
  try {
    while (left.length) left.splice(0, 1, ...(await deliver(upload.value.name, left[0])));
    upload.value = { ...upload.value, isBusy: false };
  } catch (error) {
    const isStopped = error.name === "AbortError";
    upload.value = { ...upload.value, isBusy: false, isStopped, error: isStopped ? null : error };
  }
}

export const stopUpload = () => abort?.abort();

/** Let go of what became of an upload. */
export function forgetUpload() {
  left = [];
  upload.value = null;
}
