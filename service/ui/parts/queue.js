// The queue of parts to be judged, the claim on the one that is shown, and the names of defects.
import { useEffect, useRef, useState } from "../vendor.js";
import { get, path, post, segment } from "../core/api.js";

const LIMIT = 20;
const RENEW_MS = 25_000; // a claim lasts a minute
const MOST_KINDS = 9; // as many as there are digits

function readKinds() {
  try {
    return JSON.parse(localStorage.getItem("maskline.kinds") ?? "[]").filter((kind) => typeof kind === "string");
  } catch {
    return [];
  }
}

/** Names of defects by digit: those that people have used, and those added here; and what adds or renames one. */
export function useKinds(used) {
  const [added, setAdded] = useState(readKinds);
  const all = [...new Set([...added, ...used])].slice(0, MOST_KINDS);
  const store = (names) => {
    const next = [...new Set(names)].slice(-MOST_KINDS);
    localStorage.setItem("maskline.kinds", JSON.stringify(next));
    setAdded(next);
  };
  return {
    all,
    add: (kind) => store([...all, kind]),
    rename: (kind, better) => store(all.map((name) => (name === kind ? better : name))),
  };
}

/** The parts to be judged, of which the first is shown and claimed. */
export function useQueue(camera) {
  const [state, setState] = useState({ parts: null, waiting: 0, kinds: [], error: null });
  const done = useRef(new Set());
  const read = async () => {
    try {
      const answer = await get(path("/v1/review", { limit: LIMIT, camera }));
      const parts = answer.results.filter(({ result_id: id }) => !done.current.has(id));
      setState({ parts, waiting: answer.waiting, kinds: answer.kinds, error: null });
    } catch (error) {
      setState((old) => ({ ...old, error }));
    }
  };
  useEffect(() => {
    read();
  }, [camera]);
  const remove = (id) => setState((old) => ({ ...old, parts: old.parts?.filter((part) => part.result_id !== id) ?? null }));
  const first = (part) => setState((old) => ({ ...old, parts: [part, ...(old.parts ?? []).filter(({ result_id: id }) => id !== part.result_id)] }));
  const last = (part) => setState((old) => ({ ...old, parts: [...old.parts.filter(({ result_id: id }) => id !== part.result_id), part] }));
  return { ...state, read, remove, first, last, done: done.current };
}

/** Claim the part that is shown until another is; calls `onLost` where somebody else has it. */
export function useClaim(part, done, onLost) {
  const lost = useRef(onLost);
  lost.current = onLost;
  useEffect(() => {
    if (!part) return undefined;
    const url = `/v1/results/${segment(part.result_id)}`;
    let isHeld = false;
    const claim = () =>
      post(`${url}:claim`).then(
        () => {
          isHeld = true;
        },
        (error) => {
          isHeld = false;
          if (error.code === "claimed" || error.status === 404) lost.current(part, error);
        },
      );
    claim();
    const timer = setInterval(claim, RENEW_MS);
    return () => {
      clearInterval(timer);
      if (isHeld && !done.has(part.result_id)) post(`${url}:release`).catch(() => {}); // it ends by itself
    };
  }, [part?.result_id]);
}
