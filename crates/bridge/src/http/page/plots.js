// Small plots of what has come since the page was opened: a bounded number of points, whatever time they span.

const WIDTH = 240, HEIGHT = 48;
// Twice as many are halved: the span grows, the number does not.
const POINTS = 240;
const SPACE = "http://www.w3.org/2000/svg";

const larger = (a, b) => a === null ? b : b === null ? a : Math.max(a, b);

/** A row of values, each of them that of a stretch of time. */
export class Series {
  constructor(lines) {
    this.rows = Array.from({ length: lines }, () => []);
    this.trouble = [];
    this.each = 1;
    this.waiting = [];
  }

  /** Takes up the values of a moment (null: none is known), and whether there was trouble. */
  push(values, trouble) {
    this.waiting.push([values, trouble]);
    if (this.waiting.length < this.each) return;
    this.rows.forEach((row, i) => row.push(this.waiting.map(([values]) => values[i]).reduce(larger, null)));
    this.trouble.push(this.waiting.some(([, trouble]) => trouble));
    this.waiting = [];
    if (this.trouble.length < 2 * POINTS) return;
    // The larger of two: a peak is what one looks for.
    const halved = (list, both) => list.filter((_, i) => i % 2 === 0).map((value, i) => both(value, list[2 * i + 1]));
    this.rows = this.rows.map(row => halved(row, larger));
    this.trouble = halved(this.trouble, (a, b) => a || b);
    this.each *= 2;
  }

  get most() {
    return this.rows.flat().reduce(larger, null);
  }
}

/** A figure that shows a series. */
export class Plot {
  constructor(title, lines, format) {
    this.title = title;
    this.format = format;
    this.series = new Series(lines);
    this.element = document.createElement("figure");
    this.name = document.createElement("span");
    this.value = document.createElement("b");
    const caption = document.createElement("figcaption");
    this.name.textContent = title;
    caption.append(this.name, this.value);
    this.svg = make("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" });
    this.troubles = make("path", { class: "trouble" });
    this.area = make("path", { class: "area" });
    this.lines = this.series.rows.map((_, i) => make("path", { class: i ? "line second" : "line" }));
    this.svg.append(this.troubles, make("line", { class: "base", x1: 0, x2: WIDTH, y1: HEIGHT, y2: HEIGHT }), this.area, ...this.lines);
    this.element.append(caption, this.svg);
  }

  push(values, trouble, text) {
    this.series.push(values, trouble);
    this.text = text;
  }

  draw(opened) {
    if (this.text === undefined) return;
    const { rows, trouble, most } = this.series;
    const top = Math.max(most ?? 0, 1e-9) * 1.08;
    const step = WIDTH / Math.max(trouble.length - 1, 59);
    const from = WIDTH - step * (trouble.length - 1);
    const x = i => (from + i * step).toFixed(1);
    const y = value => (HEIGHT - value / top * HEIGHT).toFixed(1);
    rows.forEach((row, i) => {
      // A value that is not known is a hole in the line.
      let pen = "M";
      const path = row.map((value, at) => {
        if (value === null) { pen = "M"; return ""; }
        const part = `${pen}${x(at)} ${y(value)}`;
        pen = "L";
        return part;
      }).join("");
      this.lines[i].setAttribute("d", path);
      if (i === 0) this.area.setAttribute("d", filled(row, x, y));
    });
    this.troubles.setAttribute("d", trouble.map((bad, i) => bad ? `M${(from + (i - .5) * step).toFixed(1)} 0h${step.toFixed(2)}v${HEIGHT}h-${step.toFixed(2)}z` : "").join(""));
    if (this.value.textContent !== this.text) this.value.textContent = this.text;
    const label = `${this.title}: ${this.text}; at most ${this.format(most ?? 0)} since ${opened}`;
    if (this.svg.getAttribute("aria-label") !== label) this.svg.setAttribute("aria-label", label);
  }
}

function filled(row, x, y) {
  let path = "", first = null;
  row.forEach((value, i) => {
    if (value !== null && first === null) { first = i; path += `M${x(i)} ${HEIGHT}`; }
    if (value !== null) path += `L${x(i)} ${y(value)}`;
    if (first !== null && (value === null || i === row.length - 1)) { path += `L${x(value === null ? i - 1 : i)} ${HEIGHT}z`; first = null; }
  });
  return path;
}

/** An element of an SVG. */
export function make(name, attributes) {
  const element = document.createElementNS(SPACE, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}
