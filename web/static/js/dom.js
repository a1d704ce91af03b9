// dom.js: elements without markup. Text goes in as text, whatever it holds; listeners go away with their signal.

const SVG = "http://www.w3.org/2000/svg";

function fill(node, props, children) {
  for (const [name, value] of Object.entries(props ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "value" || name === "checked" || name === "indeterminate") node[name] = value;
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

// An HTML element: h("a", { href, class, onclick }, "text", node, …).
export const h = (tag, props, ...children) => fill(document.createElement(tag), props, children);

// The same for SVG.
export const s = (tag, props, ...children) => fill(document.createElementNS(SVG, tag), props, children);

// Text written by others: isolated, so that its direction disturbs nothing around it.
export const bdi = (text) => h("bdi", null, text);

const last = new WeakMap();

// Write `text` only where it differs from what was written last: no layout for what stays.
export function put(node, text) {
  if (last.get(node) === text) return;
  last.set(node, text);
  node.textContent = text;
}

// Write or remove an attribute. ARIA's no is a word: a button without aria-pressed is no switch.
export function attr(node, name, value) {
  if (value === false && name.startsWith("aria-")) value = "false";
  if (value === null || value === undefined || value === false) node.removeAttribute(name);
  else if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value);
}

export function clear(node, ...children) {
  node.replaceChildren(...children.flat(Infinity).filter(Boolean));
  return node;
}

const FOCUSABLE = "button, a[href], input";

// `clear`, but who stands in it with the keyboard goes on standing there: at the same place, or at the last there is.
export function redraw(node, ...children) {
  const at = [...node.querySelectorAll(FOCUSABLE)].indexOf(document.activeElement);
  clear(node, ...children);
  if (at < 0) return;
  const now = node.querySelectorAll(FOCUSABLE);
  now[Math.min(at, now.length - 1)]?.focus({ preventScroll: true });
}

// Is the reader writing somewhere? Then single keys are text, not commands.
export const isTyping = (target) => target.closest?.("input:not([type=checkbox]), textarea, select, [contenteditable]") !== null;
