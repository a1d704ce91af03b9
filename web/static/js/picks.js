// picks.js: which tasks are picked, and which one is open beside the table.
export class Picks extends EventTarget {
  #ids = new Set();
  open = null;

  constructor(list) {
    super();
    this.list = list;
  }

  get size() {
    return this.#ids.size;
  }

  get ids() {
    return [...this.#ids];
  }

  has(id) {
    return this.#ids.has(id);
  }

  set(ids, on) {
    for (const id of ids) on ? this.#ids.add(id) : this.#ids.delete(id);
    this.dispatchEvent(new Event("change"));
  }

  toggleShown(on) {
    if (on) this.set(this.list.order, true);
    else this.clear();
  }

  clear() {
    this.#ids.clear();
    this.dispatchEvent(new Event("change"));
  }
}
