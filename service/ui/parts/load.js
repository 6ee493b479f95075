// Reads something from the service for as long as a view shows it.
import { useCallback, useEffect, useRef, useState } from "../vendor.js";
import { get } from "../core/api.js";

/** Read `url` (null: nothing) anew whenever it changes: {data, error, isLoading, again}. */
export function useLoaded(url) {
  const [state, setState] = useState({ data: null, error: null, isLoading: url !== null, url });
  const latest = useRef(null);
  const load = useCallback(() => {
    if (url === null) return Promise.resolve();
    latest.current?.abort();
    const abort = (latest.current = new AbortController());
    setState((old) => ({ data: old.url === url ? old.data : null, error: null, isLoading: true, url }));
    return get(url, { signal: abort.signal }).then(
      (data) => setState({ data, error: null, isLoading: false, url }),
      (error) => {
        if (error.name !== "AbortError") setState({ data: null, error, isLoading: false, url });
      },
    );
  }, [url]);
  useEffect(() => {
    load();
    return () => latest.current?.abort();
  }, [load]);
  return { ...state, again: load };
}

/** Call `work` every so many seconds while the view is shown and the page is visible. */
export function useEvery(seconds, work) {
  const current = useRef(work);
  current.current = work;
  useEffect(() => {
    const timer = setInterval(() => {
      if (!document.hidden) current.current();
    }, seconds * 1000);
    return () => clearInterval(timer);
  }, [seconds]);
}
