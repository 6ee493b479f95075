// The libraries of the page as one module: an import map would be an inline script, which the
// page's content security policy refuses.
import htm from "htm";
import { h } from "preact";

export { Fragment, h, render } from "preact";
export { useCallback, useEffect, useLayoutEffect, useMemo, useRef, useState } from "preact/hooks";
export { batch, computed, effect, signal, useComputed, useSignal, useSignalEffect } from "@preact/signals";

// Without htm's cache of what never changes in a template: an element that is drawn again would
// hold the tree that it was drawn in first, and that one by one all trees since.
function element(...parts) {
  this[0] = 3;
  return h(...parts);
}

export const html = htm.bind(element);
