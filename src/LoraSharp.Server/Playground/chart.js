// A small line chart in SVG. Points are {x, y}; the newest value stands in the title, a value under the pointer beside it.
import { make } from "./dom.js";

const width = 300;
const height = 72;
const mostPoints = 240;

const svg = (tag, attributes) => {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) {
    element.setAttribute(name, value);
  }

  return element;
};

export class Chart {
  #format;
  #zero;
  #now;
  #low;
  #high;
  #plot;
  #series = [];
  #xLabel;
  #scale = null;
  #newest = null;

  /** zero: the axis starts at 0; xLabel: how a value on the x axis is written. */
  constructor(host, title, { format = String, zero = true, xLabel = x => `${x}` } = {}) {
    this.#format = format;
    this.#zero = zero;
    this.#xLabel = xLabel;
    this.#now = make("span", { class: "now" });
    this.#low = make("span", { class: "low" });
    this.#high = make("span", { class: "high" });
    this.#plot = svg("svg", { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", role: "img", "aria-label": title });
    const figure = make("figure", { class: "chart" }, make("figcaption", {}, title, this.#now), make("div", { class: "plot" }, this.#plot, this.#high, this.#low));
    this.#plot.addEventListener("pointermove", event => this.#point(event));
    this.#plot.addEventListener("pointerleave", () => this.#rest());
    host.append(figure);
  }

  /** now: what the title says of the newest value, where that is more than the value itself. Each series: { points, kind: "line" | "faint" | "dots" }; the first line is the one that is read out. */
  draw(series, now = null) {
    this.#newest = now;
    this.#series = series.filter(s => s.points.length > 0).map(s => ({ ...s, points: s.kind === "dots" ? s.points : thin(s.points) }));
    this.#plot.replaceChildren();
    if (this.#series.length === 0) {
      this.#rest();
      return;
    }

    const all = this.#series.flatMap(s => s.points);
    const xs = all.map(p => p.x);
    const ys = all.map(p => p.y);
    const left = Math.min(...xs);
    const right = Math.max(...xs, left + 1e-9);
    const low = this.#zero ? Math.min(0, ...ys) : Math.min(...ys);
    const high = Math.max(...ys, low + 1e-12);
    const x = v => ((v - left) / (right - left)) * width;
    const y = v => height - 3 - ((v - low) / (high - low)) * (height - 6);
    this.#scale = { x, y, left, right };
    for (const { points, kind } of this.#series) {
      if (kind === "dots") {
        // Short strokes with round ends: they stay round however the plot is stretched.
        points.forEach(p => this.#plot.append(svg("path", { class: "dots", d: `M${x(p.x)} ${y(p.y)}h.01` })));
        continue;
      }

      const line = points.map((p, i) => `${i === 0 ? "M" : "L"}${x(p.x).toFixed(1)} ${y(p.y).toFixed(1)}`).join("");
      if (kind === "line" && this.#zero) {
        this.#plot.append(svg("path", { class: "area", d: `${line}L${x(points.at(-1).x).toFixed(1)} ${height}L${x(points[0].x).toFixed(1)} ${height}Z` }));
      }

      this.#plot.append(svg("path", { class: kind, d: line }));
    }

    this.#high.textContent = high > low + 1e-9 ? this.#format(high) : "";
    this.#low.textContent = this.#format(low);
    this.#rest();
  }

  #read() {
    return this.#series.find(s => s.kind === "line") ?? this.#series[0];
  }

  #rest() {
    const last = this.#read()?.points.at(-1);
    this.#now.textContent = this.#newest ?? (last ? this.#format(last.y) : "–");
    this.#plot.querySelector(".cursor")?.remove();
  }

  #point(event) {
    const series = this.#read();
    if (!series || !this.#scale) {
      return;
    }

    const box = this.#plot.getBoundingClientRect();
    const at = this.#scale.left + ((event.clientX - box.left) / box.width) * (this.#scale.right - this.#scale.left);
    const near = series.points.reduce((best, p) => (Math.abs(p.x - at) < Math.abs(best.x - at) ? p : best));
    this.#plot.querySelector(".cursor")?.remove();
    this.#plot.append(svg("path", { class: "cursor", d: `M${this.#scale.x(near.x)} 0V${height}` }));
    this.#now.textContent = `${this.#format(near.y)} at ${this.#xLabel(near.x)}`;
  }
}

// More points than pixels tell nothing: the mean of each bucket.
function thin(points) {
  if (points.length <= mostPoints) {
    return points;
  }

  const size = Math.ceil(points.length / mostPoints);
  const kept = [];
  for (let i = 0; i < points.length; i += size) {
    const bucket = points.slice(i, i + size);
    kept.push({ x: bucket.at(-1).x, y: bucket.reduce((sum, p) => sum + p.y, 0) / bucket.length });
  }

  return kept;
}
