// icons.js: the few drawings the pages use, as paths on a 24-unit square.
import { s } from "./dom.js";

const PATHS = {
  pending: "M12 3.5a8.5 8.5 0 1 0 0 17 8.5 8.5 0 0 0 0-17ZM12 8v4.5l3 1.5",
  processing: "M20.5 12A8.5 8.5 0 1 1 12 3.5",
  completed: "M12 3.5a8.5 8.5 0 1 0 0 17 8.5 8.5 0 0 0 0-17ZM8.2 12.3l2.6 2.6 5-5.4",
  failed: "M12 4 2.8 20h18.4L12 4ZM12 10v4.5M12 17.2v.1",
  cancelled: "M12 3.5a8.5 8.5 0 1 0 0 17 8.5 8.5 0 0 0 0-17ZM6 6l12 12",
  search: "M10.5 4a6.5 6.5 0 1 0 0 13 6.5 6.5 0 0 0 0-13ZM15.5 15.5 20 20",
  close: "M6 6l12 12M18 6 6 18",
  up: "M12 19V5M6 11l6-6 6 6",
  down: "M6 9l6 6 6-6",
  pause: "M8.5 5.5v13M15.5 5.5v13",
  play: "M8 5.5v13l10.5-6.5Z",
  retry: "M4.5 12a7.5 7.5 0 1 0 2.4-5.5M4.5 4.5v4h4",
  stop: "M12 3.5a8.5 8.5 0 1 0 0 17 8.5 8.5 0 0 0 0-17ZM9 9l6 6M15 9l-6 6",
  broom: "M5 7h14M10 7V4.5h4V7M7 7l1 12.5h8L17 7M10.5 11v5M13.5 11v5",
  copy: "M9 9h10.5v10.5H9ZM15 9V4.5H4.5V15H9",
  out: "M14 4.5h5.5V10M19.5 4.5 11 13M18 14v4.5a1 1 0 0 1-1 1H5.5a1 1 0 0 1-1-1V7a1 1 0 0 1 1-1H10",
  download: "M12 4v11M7 11l5 5 5-5M5 20h14",
  moon: "M19.5 14.5A8 8 0 1 1 9.5 4.5a6.5 6.5 0 0 0 10 10Z",
  sun: "M12 8a4 4 0 1 0 0 8 4 4 0 0 0 0-8ZM12 2.5v2M12 19.5v2M2.5 12h2M19.5 12h2M5.3 5.3l1.4 1.4M17.3 17.3l1.4 1.4M5.3 18.7l1.4-1.4M17.3 6.7l1.4-1.4",
  auto: "M12 3.5a8.5 8.5 0 1 0 0 17 8.5 8.5 0 0 0 0-17ZM12 3.5v17M12 7l5.5-1M12 11h8M12 15h7.500",
  sound: "M4 9.5v5h3.500L12 18.500V5.500L7.500 9.500ZM15.500 9a4.200 4.200 0 0 1 0 6M18 6.500a8 8 0 0 1 0 11",
  mute: "M4 9.500v5h3.500L12 18.500V5.500L7.500 9.500ZM16 9.500l5 5M21 9.500l-5 5",
  filter: "M4 6h16M7 12h10M10 18h4",
  clock: "M12 3.5a8.500 8.500 0 1 0 0 17 8.500 8.500 0 0 0 0-17ZM12 7.500V12l3.500 2",
  key: "M14.500 4.500a5 5 0 1 0-3.700 8.300L4.500 19v.500h3v-2h2v-2h2l1.500-1.500a5 5 0 0 0 1.500-9.500ZM15.800 8.200v.1",
  inbox: "M4 13.500 6.500 5h11L20 13.500V19H4ZM4 13.500h5l1 2.500h4l1-2.500h5",
  alert: "M12 4 2.800 20h18.400L12 4ZM12 10v4.500M12 17.200v.1",
  help: "M12 3.500a8.500 8.500 0 1 0 0 17 8.500 8.500 0 0 0 0-17ZM9.500 9.500a2.500 2.500 0 1 1 3.500 2.300c-.700.300-1 .800-1 1.700M12 16.500v.1",
  plus: "M12 5v14M5 12h14",
  print: "M7 9V4h10v5M7 17H4.500V9h15v8H17M7 14h10v6H7Z",
  back: "M19 12H5M11 6l-6 6 6 6",
};

export function icon(name) {
  return s("svg", { class: "icon", viewBox: "0 0 24 24", "aria-hidden": "true" }, s("path", { d: PATHS[name] }));
}

// Show another drawing in an icon that stands already.
export function reshape(svg, name) {
  if (svg.dataset.name === name) return;
  svg.dataset.name = name;
  svg.firstChild.setAttribute("d", PATHS[name]);
}
