// Names of models and sets of good parts, by the service's own rule.
const PLAIN = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/;
const LONGEST = 64;
const LETTERS = { ä: "ae", ö: "oe", ü: "ue", ß: "ss", Ä: "Ae", Ö: "Oe", Ü: "Ue" };

export const isPlainName = (text) => PLAIN.test(text);

/** What somebody calls a product, as a name that the service takes; empty where nothing is left. */
export function plainName(text) {
  return text
    .replace(/[äöüßÄÖÜ]/g, (letter) => LETTERS[letter])
    .normalize("NFKD")
    .replace(/[^A-Za-z0-9._-]+/g, "-")
    .replace(/^[^A-Za-z0-9]+|-+$/g, "")
    .slice(0, LONGEST);
}
