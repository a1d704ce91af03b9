// shortcuts.js: single keys as commands, where they cannot be text. Who speaks to the browser can switch them off, so
// that no word sets one off (WCAG 2.2, 2.1.4).
import { isTyping } from "./dom.js";

const KEPT = "tocsin.shortcuts";

export const areOn = () => localStorage.getItem(KEPT) !== "off";
export const turn = (on) => localStorage.setItem(KEPT, on ? "on" : "off");

export const isCommand = (event) =>
  areOn() && !event.ctrlKey && !event.metaKey && !event.altKey && !isTyping(event.target) && !document.querySelector("dialog[open]");
