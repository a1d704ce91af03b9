// i18n.js: text and numbers in the reader's language. The texts come with the page; nothing is written here.
import { boot } from "./boot.js";

export const lang = boot.lang ?? "fr";
export const locale = lang === "en" ? "en-GB" : "fr-FR";
const integers = new Intl.NumberFormat(locale, { maximumFractionDigits: 0 });
const percents = new Intl.NumberFormat(locale, { style: "percent", maximumFractionDigits: 1 });
const decimals = new Intl.NumberFormat(locale, { maximumSignificantDigits: 3 });

export const number = (n) => integers.format(n);
export const percent = (ratio) => percents.format(ratio);
export const decimal = (n) => (n >= 1000 ? integers.format(n) : decimals.format(n));

// The text of `key` with `values` filled in; `n` picks singular or plural. An unknown key shows itself.
export function t(key, values = {}) {
  let entry = boot.texts[key];
  if (Array.isArray(entry)) entry = entry[lang === "en" ? Number(values.n !== 1) : Number(values.n >= 2)];
  if (entry === undefined) return key;
  return entry.replace(/\{(\w+)\}/g, (whole, name) => {
    const value = values[name];
    return value === undefined ? whole : typeof value === "number" ? number(value) : String(value);
  });
}

export const has = (key) => key in boot.texts;
export const typeLabel = (id) => boot.types.find((type) => type.id === id)?.label ?? id;
