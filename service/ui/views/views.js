// All views, in the order of the navigation; `role` is what a reader needs to see one.
import { Calibrate } from "./calibrate.js";
import { Cameras } from "./cameras.js";
import { Help } from "./help.js";
import { Kinds } from "./kinds.js";
import { Models } from "./models.js";
import { Parts } from "./parts.js";
import { Report } from "./report.js";
import { Review } from "./review.js";
import { Start } from "./start.js";
import { Train } from "./train.js";
import { Wall } from "./wall.js";
import { WhatIf } from "./whatif.js";

export const VIEWS = [
  { name: "wall", role: "view", component: Wall },
  { name: "parts", role: "view", component: Parts },
  { name: "review", role: "review", component: Review },
  { name: "whatif", role: "operate", component: WhatIf },
  { name: "calibrate", role: "operate", component: Calibrate },
  { name: "models", role: "operate", component: Models },
  { name: "train", role: "operate", component: Train },
  { name: "cameras", role: "view", component: Cameras },
  { name: "help", role: null, component: Help },
  { name: "kinds", role: "view", component: Kinds, inNavigation: false },
  { name: "start", role: "operate", component: Start, inNavigation: false },
  { name: "report", role: "view", component: Report, inNavigation: false },
];
