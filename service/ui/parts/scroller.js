// A wide table on a narrow screen: scrolled sideways by finger, or by the arrow keys.
import { html } from "../vendor.js";

export const Scroller = ({ label, children }) =>
  html`<div class="table-scroll" tabindex="0" role="group" aria-label=${label}>${children}</div>`;
