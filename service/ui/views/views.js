// All views, in the order of the navigation; `role` is what a reader needs to see one.
import { Help } from "./help.js";
import { Parts } from "./parts.js";
import { Review } from "./review.js";
import { Wall } from "./wall.js";

export const VIEWS = [
  { name: "wall", role: "view", component: Wall },
  { name: "parts", role: "view", component: Parts },
  { name: "review", role: "review", component: Review },
  { name: "help", role: null, component: Help },
];
