// api.js: one call to the server. What goes wrong comes back as an ApiError that can be read out to a person.
import { t } from "./i18n.js";
import { learnClock } from "./time.js";

export class ApiError extends Error {
  constructor(status, title, detail, errors = []) {
    super(detail || title);
    this.status = status;
    this.title = title;
    this.detail = detail;
    this.errors = errors;
  }
}

// Off to the sign-in page, which says why, and back here afterwards.
export function toLogin() {
  const here = location.pathname + location.search;
  location.assign(`/admin/login?next=${encodeURIComponent(here)}&ended`);
}

export async function call(method, path, body, { signal, headers } = {}) {
  let response;
  try {
    response = await fetch(path, {
      method,
      signal,
      credentials: "same-origin",
      cache: "no-store",
      headers: { Accept: "application/json", ...(body === undefined ? {} : { "Content-Type": "application/json" }), ...headers },
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, t("error.network"), t("error.network.detail"));
  }
  learnClock(response.headers.get("Date"));
  if (response.status === 401) {
    toLogin();
    throw new ApiError(401, t("error.session"), "");
  }
  const text = await response.text();
  let data = {};
  try {
    data = text ? JSON.parse(text) : {};
  } catch {
    throw new ApiError(response.status, t("error.odd"), String(response.status));
  }
  if (!response.ok) {
    throw new ApiError(response.status, data.title ?? t("error.odd"), data.detail ?? String(response.status), data.errors ?? []);
  }
  return data;
}

export const get = (path, options) => call("GET", path, undefined, options);
export const post = (path, body, options) => call("POST", path, body, options);

// Query string of an object; arrays repeat their key, empty values are left out.
export function query(values) {
  const params = new URLSearchParams();
  for (const [name, value] of Object.entries(values)) {
    for (const item of [value].flat()) if (item !== undefined && item !== null && item !== "") params.append(name, item);
  }
  const text = params.toString();
  return text ? `?${text}` : "";
}
