// filter.js: the table's filter as it stands in the address bar, so that it can be shared and survives a reload.

const MANY = ["status", "type", "priority"];
const ONE = ["q", "since", "until"];

export function readFilter(search = location.search) {
  const params = new URLSearchParams(search);
  const filter = {};
  for (const name of MANY) filter[name] = params.getAll(name).filter(Boolean);
  for (const name of ONE) filter[name] = params.get(name) ?? "";
  for (const name of ["since", "until"]) if (Number.isNaN(Date.parse(filter[name]))) filter[name] = "";
  return filter;
}

// The address for a filter; what else stands in the query (an open task) stays.
export function filterUrl(filter, base = location) {
  const params = new URLSearchParams(base.search);
  for (const name of [...MANY, ...ONE]) params.delete(name);
  for (const name of MANY) for (const value of filter[name]) params.append(name, value);
  for (const name of ONE) if (filter[name]) params.set(name, filter[name]);
  const text = params.toString();
  return base.pathname + (text ? `?${text}` : "");
}

export const isEmpty = (filter) => MANY.every((name) => !filter[name].length) && ONE.every((name) => !filter[name]);

export const emptyFilter = () => readFilter("");

// The same filter as the body of a bulk action.
export function filterBody(filter) {
  const body = {};
  for (const name of MANY) if (filter[name].length) body[name] = filter[name];
  for (const name of ONE) if (filter[name]) body[name] = filter[name];
  return body;
}

export const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);
