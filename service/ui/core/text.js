// Words, numbers and times in the reader's language. No wording stands in any other module.
import { signal } from "../vendor.js";

export const LANGUAGES = { en: "English", de: "Deutsch" };

const stored = localStorage.getItem("maskline.language");
const preferred = navigator.languages.map((tag) => tag.slice(0, 2)).find((tag) => tag in LANGUAGES);

export const language = signal(stored in LANGUAGES ? stored : (preferred ?? "en"));
const texts = signal({});

/** The reader's own form of the language: how a day is written differs between countries. */
const locale = () => navigator.languages.find((tag) => tag.startsWith(language.value)) ?? language.value;

// A formatter costs a hundred times what it does: each is made once.
const formatters = new Map();

function formatter(Kind, locales, options) {
  const key = `${Kind.name} ${locales} ${JSON.stringify(options)}`;
  if (!formatters.has(key)) formatters.set(key, new Kind(locales, options));
  return formatters.get(key);
}

/** Load a language's words; the page is drawn anew with them. */
export async function speak(chosenLanguage) {
  const answer = await fetch(`i18n/${chosenLanguage}.json`);
  if (!answer.ok) throw new Error(`no texts in ${chosenLanguage}: ${answer.status}`);
  texts.value = await answer.json();
  language.value = chosenLanguage;
  document.documentElement.lang = chosenLanguage;
  localStorage.setItem("maskline.language", chosenLanguage);
}

/** Say a text; `{name}` in it is replaced by a value, and `n` chooses between `.one` and `.other`. */
export function t(key, values = {}) {
  const all = texts.value;
  const form = "n" in values ? formatter(Intl.PluralRules, language.value).select(values.n) : null;
  const text = all[`${key}.${form}`] ?? all[`${key}.other`] ?? all[key] ?? key;
  return text.replace(/\{(\w+)\}/g, (_, name) => {
    const value = values[name];
    return typeof value === "number" ? number(value) : String(value ?? "");
  });
}

/** Whether a text exists under this key. */
export const hasText = (key) => key in texts.value;

export function number(value, digits = 2) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  return formatter(Intl.NumberFormat, locale(), { maximumFractionDigits: digits }).format(value);
}

/** A share as a percentage; small ones keep two digits that say something. */
export function percent(share) {
  if (share === null || share === undefined) return "–";
  const digits = share !== 0 && Math.abs(share) < 0.01 ? 2 : 1;
  return formatter(Intl.NumberFormat, locale(), {
    style: "percent",
    maximumFractionDigits: digits,
  }).format(share);
}

export function bytes(count) {
  const units = ["byte", "kilobyte", "megabyte", "gigabyte"];
  const step = Math.min(units.length - 1, count > 0 ? Math.floor(Math.log10(count) / 3) : 0);
  return formatter(Intl.NumberFormat, locale(), {
    style: "unit",
    unit: units[step],
    unitDisplay: "short",
    maximumFractionDigits: 1,
  }).format(count / 1000 ** step);
}

/** A moment: the time alone where it is today's. */
export function moment(value) {
  if (!value) return "–";
  const at = new Date(value);
  const isToday = at.toDateString() === new Date().toDateString();
  const style = isToday ? { timeStyle: "medium" } : { dateStyle: "short", timeStyle: "medium" };
  return formatter(Intl.DateTimeFormat, locale(), style).format(at);
}

/** A moment with its day, for what is printed or looked at later. */
export const fullMoment = (value) =>
  value ? formatter(Intl.DateTimeFormat, locale(), { dateStyle: "medium", timeStyle: "medium" }).format(new Date(value)) : "–";

/** A span in its largest unit: 12 s, 3 min, 2 h, 5 d. */
export function span(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  const [unit, size] =
    seconds < 100
      ? ["second", 1]
      : seconds < 6000
        ? ["minute", 60]
        : seconds < 172800
          ? ["hour", 3600]
          : ["day", 86400];
  return formatter(Intl.NumberFormat, locale(), {
    style: "unit",
    unit,
    unitDisplay: "short",
    maximumFractionDigits: seconds < 10 ? 1 : 0,
  }).format(Math.max(0, seconds) / size);
}
