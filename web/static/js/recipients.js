// recipients.js: a pasted list, CSV or JSON, as recipients; what is wrong is said line by line. Pure: no page, no server.
// The server checks all of it again; these checks are here so that nobody finds out after pressing "send". Columns and
// words are the server's (`rules`: server/spreadsheet.py), the same as for files on its command line.
import { fromCsv } from "./csv.js";

const EMAIL = /^[^\s@<>"(),:;\\[\]]+@[^\s@<>"(),:;\\[\]]+$/;
const PHONE = /^\+[1-9]\d{6,14}$/;
// eslint-disable-next-line no-control-regex
const CONTROLS = /[\u0000-\u001f\u007f-\u009f\u2028\u2029]/;

const plain = (text) => text.trim().toLowerCase().normalize("NFD").replace(/[\u0300-\u036f]/g, "");
const columnOf = (head, { columns }) => Object.keys(columns).find((name) => name === plain(head) || columns[name].includes(plain(head)));

// What people write for a number, as E.164 where that is certain: separators away, 00 is +, the (0) behind it is not dialled.
const tidyPhone = (text) => text.replace(/^(\+|00)(.*?)\(\s*0\s*\)/, "$1$2").replace(/[\s.()/-]/g, "").replace(/^00/, "+");

// Without a header: what a cell looks like says what it is.
function guess(cells) {
  const found = {};
  for (const text of cells.map((one) => one.trim()).filter(Boolean)) {
    if (text.includes("@") && !found.email) found.email = text;
    else if (/^(\+|00|0)[\d\s.()/-]{6,}$/.test(text) && !found.telephone) found.telephone = text;
    else if (/^(fr|en)$/i.test(text) && !found.langue) found.langue = text.toLowerCase();
    else if (!found.id) found.id = text;
    else if (!found.nom) found.nom = text;
    else return null;
  }
  if (found.id && !found.nom) found.nom = found.id;
  return found;
}

function check(person, line, { channels }, errors) {
  const bad = (field, key, values = {}) => errors.push({ line, field, key: `people.bad.${key}`, values });
  const { id, nom, email, telephone, langue } = person;
  for (const [field, value] of [["id", id], ["nom", nom]]) {
    if (!value) bad(field, "missing", { field });
    else if (value.length > 200) bad(field, "long", { field });
    else if (CONTROLS.test(value)) bad(field, "control", { field });
  }
  if (email !== undefined && !EMAIL.test(email)) bad("email", "email", { value: email });
  if (telephone !== undefined && !PHONE.test(telephone)) bad("telephone", telephone.startsWith("0") ? "national" : "phone", { value: telephone });
  if (langue !== undefined && !["fr", "en"].includes(langue)) bad("langue", "langue", { value: langue });
  const channel = person.preferences?.canal_prefere ?? "email";
  if (!channels.includes(channel)) bad("canal", "channel", { value: channel });
  else if (channel === "email" && !email) bad("email", "noemail");
  else if (channel === "sms" && !telephone) bad("telephone", "nophone");
}

// Raw fields as a recipient, as the API takes it (spreadsheet.py, `person`).
function toPerson(raw, { shipped, no }) {
  const text = (name) => (raw[name] === undefined || raw[name] === null || raw[name] === "" ? undefined : String(raw[name]).trim() || undefined);
  const email = text("email");
  const telephone = text("telephone") && tidyPhone(text("telephone"));
  const id = text("id") ?? email ?? telephone;
  const person = { id, nom: text("nom") ?? id };
  if (email) person.email = email;
  if (telephone) person.telephone = telephone;
  if (text("langue")) person.langue = text("langue").toLowerCase();
  const preferences = {};
  const wanted = text("canal_prefere");
  if (wanted) preferences.canal_prefere = shipped.includes(wanted.toLowerCase()) ? wanted.toLowerCase() : wanted;
  else if (!email && telephone) preferences.canal_prefere = "sms"; // no other way to reach them
  if (no.includes(plain(String(raw.actif ?? "")))) preferences.actif = false;
  if (Object.keys(preferences).length) person.preferences = preferences;
  return person;
}

function rawFromJson(text) {
  const data = JSON.parse(text);
  const list = Array.isArray(data) ? data : (data?.utilisateurs ?? [data]);
  if (!Array.isArray(list)) throw new SyntaxError("array");
  return list.map((one, i) => ({ line: i + 1, raw: typeof one === "object" && one ? { ...one, ...one.preferences } : null }));
}

// Lines below a header; or, without one, a plain list: what a cell looks like says what it is.
function rawFromCsv(text, rules, errors) {
  const rows = fromCsv(text, rules.separators);
  if (!rows.length) return [];
  const [{ line: first, cells: top }] = rows;
  const heads = top.map((head) => columnOf(head, rules));
  const headed = heads.filter(Boolean).length >= Math.min(2, top.length) && !top.some((one) => one.includes("@"));
  if (!headed) return rows.map(({ line, cells }) => ({ line, raw: guess(cells) }));
  const bad = (line, key, values) => errors.push({ line, field: "", key: `people.bad.${key}`, values });
  heads.forEach((name, i) => {
    if (!name) bad(first, "column", { value: top[i], known: Object.keys(rules.columns).join(", ") });
    else if (heads.indexOf(name) < i) bad(first, "twice", { value: name });
  });
  if (errors.length) return [];
  return rows.slice(1).flatMap(({ line, cells }) => {
    if (cells.length !== heads.length) bad(line, "fields", { n: heads.length, got: cells.length });
    return cells.length === heads.length ? [{ line, raw: Object.fromEntries(heads.map((name, i) => [name, cells[i]])) }] : [];
  });
}

// → { people, lines, errors: [{ line, field, key, values }], doubles, counts }; `lines[i]` is where people[i] stood.
export function parseRecipients(text, rules) {
  const errors = [];
  const people = [];
  const lines = [];
  let raws = [];
  const json = /^\s*[[{]/.test(text);
  try {
    raws = json ? rawFromJson(text) : rawFromCsv(text, rules, errors);
  } catch (error) {
    errors.push({ line: 1, field: "", key: "people.bad.json", values: { why: error.message } });
  }
  for (const { line, raw } of raws) {
    if (raw === null) {
      errors.push({ line, field: "", key: "people.bad.line", values: {} });
      continue;
    }
    const said = plain(String(raw.actif ?? ""));
    if (![...rules.yes, ...rules.no].includes(said)) errors.push({ line, field: "actif", key: "people.bad.actif", values: { value: String(raw.actif) } });
    const person = toPerson(raw, rules);
    check(person, line, rules, errors);
    people.push(person);
    lines.push(line);
  }
  errors.sort((a, b) => a.line - b.line); // rows of a wrong length were found first
  return { people, lines, errors, json, ...countPeople(people) };
}

function countPeople(people) {
  const ids = new Set();
  const counts = { unique: 0, inactive: 0, noEmail: 0, noPhone: 0, english: 0, byChannel: {} };
  for (const person of people) {
    if (ids.has(person.id)) continue;
    ids.add(person.id);
    counts.unique += 1;
    if (!person.email) counts.noEmail += 1;
    if (!person.telephone) counts.noPhone += 1;
    if (person.langue === "en") counts.english += 1;
    if (person.preferences?.actif === false) {
      counts.inactive += 1;
      continue;
    }
    const channel = person.preferences?.canal_prefere ?? "email";
    counts.byChannel[channel] = (counts.byChannel[channel] ?? 0) + 1;
  }
  return { doubles: people.length - counts.unique, counts };
}
