// panels/charts.js: the last fifteen minutes in three small drawings: throughput, latency, share of failures.
// Draws state.stats.minutes, the server's own series, so that a reload loses nothing; changes nothing.
import { attr, clear, h, put, s } from "../dom.js";
import { number, percent, t } from "../i18n.js";
import { minute, now, span } from "../time.js";

const W = 300;
const H = 80;
const TOP = 4;
const TINY = 0.5; // ms per second below which a scale makes no sense

// A round number at or above `value`: 1, 2, 5 times a power of ten.
function ceiling(value) {
  if (value <= 0) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= value - 1e-9);
}

const y = (value, most) => H - (value / most) * (H - TOP);

function frame(any) {
  return [
    s("line", { class: "axis", x1: 0, x2: W, y1: H, y2: H }),
    any ? s("line", { class: "axis", x1: 0, x2: W, y1: TOP, y2: TOP, "stroke-dasharray": "2 4" }) : null,
  ];
}

function bars(series, most, parts, title) {
  const step = W / series.length;
  return series.map((point, i) => {
    let base = 0;
    const group = s("g", null, s("title", null, title(point)));
    group.append(s("rect", { x: i * step, y: 0, width: step, height: H, fill: "transparent" }));
    for (const { of, tone } of parts) {
      const value = of(point);
      if (!value) continue;
      const top = y(base + value, most);
      const low = y(base, most);
      const height = Math.max(low - top, 1.5);
      group.append(s("rect", { class: tone, x: i * step + step * 0.14, width: step * 0.72, y: low - height, height, rx: 1.5 }));
      base += value;
    }
    return group;
  });
}

// A line that is broken where there is no value.
function path(series, of, most) {
  const step = W / series.length;
  let drawing = false;
  return series
    .map((point, i) => {
      const value = of(point);
      if (value === null || value === undefined) {
        drawing = false;
        return "";
      }
      const command = `${drawing ? "L" : "M"}${(i * step + step / 2).toFixed(1)} ${y(value, most).toFixed(1)}`;
      drawing = true;
      return command;
    })
    .join("");
}

function dots(series, of, most, tone = "line") {
  const step = W / series.length;
  const has = (point) => point && of(point) !== null && of(point) !== undefined;
  return series
    .map((point, i) => (has(point) && !has(series[i - 1]) && !has(series[i + 1]) ? s("path", { class: tone, d: `M${i * step + step / 2 - 4} ${y(of(point), most)}h8` }) : null))
    .filter(Boolean);
}

const ended = (point) => point.completed + point.failed;
// What ended in the last 60 s: the running minute, and of the one before the part not yet 60 s old.
function lastMinute(series) {
  const [before, running] = [series.at(-2), series.at(-1)];
  const part = Math.min(1, Math.max(0, (now() - Date.parse(running.at)) / 60_000));
  return Math.round(ended(running) + (before ? ended(before) * (1 - part) : 0));
}

const ms = (value) => span(value / 1000);

const CHARTS = {
  throughput: {
    keys: [["completed", "chart.completed"], ["failed", "chart.failed"]],
    now: (series) => [number(lastMinute(series)), t("chart.perminute")],
    draw(series) {
      const most = ceiling(Math.max(...series.map(ended)));
      const title = (point) => t("chart.throughput.at", { at: minute(point.at), a: point.completed, b: point.failed });
      const any = series.some(ended);
      return [any ? number(most) : "", ...frame(any), ...bars(series, most, [{ of: (p) => p.completed, tone: "b-ok" }, { of: (p) => p.failed, tone: "b-ko" }], title)];
    },
  },
  latency: {
    keys: [["processing", "p50"], ["processing p95", "p95"]],
    now(series) {
      const point = series.findLast((one) => one.latency_p50_ms !== null && one.latency_p50_ms !== undefined);
      return point ? [ms(point.latency_p50_ms), `p95 ${ms(point.latency_p95_ms)}`] : ["–", ""];
    },
    draw(series) {
      const top = Math.max(...series.map((point) => point.latency_p95_ms ?? 0));
      const most = top > TINY ? ceiling(top) : 1;
      const title = (point) =>
        point.latency_p50_ms === null || point.latency_p50_ms === undefined
          ? t("chart.none.at", { at: minute(point.at) })
          : t("chart.latency.at", { at: minute(point.at), a: ms(point.latency_p50_ms), b: ms(point.latency_p95_ms) });
      return [
        top > TINY ? ms(most) : "",
        ...frame(top > TINY),
        s("path", { class: "line", d: path(series, (p) => p.latency_p50_ms, most) }),
        s("path", { class: "line p95", d: path(series, (p) => p.latency_p95_ms, most) }),
        ...dots(series, (p) => p.latency_p50_ms, most),
        ...dots(series, (p) => p.latency_p95_ms, most, "line p95"),
        ...bars(series, most, [], title),
      ];
    },
  },
  failures: {
    keys: [["failed", "chart.ratio"]],
    now(series) {
      const failed = series.reduce((sum, point) => sum + point.failed, 0);
      const all = series.reduce((sum, point) => sum + ended(point), 0);
      return all ? [percent(failed / all), t("chart.of", { n: all })] : ["–", ""];
    },
    draw(series) {
      const ratio = (point) => (ended(point) ? point.failed / ended(point) : 0);
      const most = Math.max(...series.map(ratio)) > 0.5 ? 1 : 0.5;
      const title = (point) => t("chart.failures.at", { at: minute(point.at), a: percent(ratio(point)), b: point.failed, n: ended(point) });
      const any = series.some(ended);
      return [any ? percent(most) : "", ...frame(any), ...bars(series, most, [{ of: ratio, tone: "b-ko" }], title)];
    },
  },
};

export function mount(root, state, { signal }) {
  const figures = Object.entries(CHARTS).map(([name, chart]) => {
    const value = h("span");
    const unit = h("small");
    const svg = s("svg", { viewBox: `0 0 ${W} ${H}`, preserveAspectRatio: "none", role: "img" });
    const scale = h("small", { class: "scale", "aria-hidden": "true" });
    const key = h("div", { class: "key" }, chart.keys.map(([tone, text]) => h("span", { class: tone }, text.startsWith("chart.") ? t(text) : text)), scale);
    const node = h("figure", { class: "card chart", "data-chart": name }, h("figcaption", null, t(`chart.${name}`)), h("div", { class: "now" }, value, " ", unit), key, svg);
    return { name, chart, value, unit, scale, svg, node };
  });
  root.append(...figures.map((figure) => figure.node));
  let drawn = "";
  const draw = () => {
    const series = state.stats?.minutes;
    if (!series?.length) return;
    const key = JSON.stringify(series);
    if (key === drawn) return;
    drawn = key;
    for (const { name, chart, value, unit, scale, svg } of figures) {
      const [text, small] = chart.now(series);
      put(value, text);
      put(unit, small);
      attr(svg, "aria-label", t("chart.said", { name: t(`chart.${name}`), value: `${text} ${small}`.trim() }));
      const [most, ...drawing] = chart.draw(series); // the scale's top, then the drawing
      put(scale, most);
      clear(svg, drawing);
    }
  };
  state.addEventListener("change", draw, { signal });
  draw();
}

