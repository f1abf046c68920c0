// Plots of the values since the page was opened. The number of points is bounded, however long the page has been open.

import { element, make, moment, seconds, text } from "./words.js";

const WIDTH = 240, HEIGHT = 48;
// A series with twice this number of points is reduced: every two points become one, for an interval of twice the length.
const POINTS = 240;
// The shortest span of the time axis.
const LEAST_SECONDS = 30;
// Two points are not joined if their distance is more than this number of intervals: between them the bridge did not respond, or
// the browser suspended the page.
const HOLE = 8;

const larger = (a, b) => a === null ? b : b === null ? a : Math.max(a, b);

/** A series of values over time. Each value is the largest one of an interval. */
export class Series {
  constructor(lines = 1) {
    this.rows = Array.from({ length: lines }, () => []);
    this.times = [];
    this.bad = [];
    this.each = 1;
    this.waiting = [];
  }

  /** Adds the values at a time (null: unknown), and whether there was a fault at this time. */
  push(values, isBad, at) {
    this.waiting.push([values, isBad]);
    if (this.waiting.length < this.each) return;
    this.rows.forEach((row, i) => row.push(this.waiting.map(([values]) => values[i]).reduce(larger, null)));
    this.bad.push(this.waiting.some(([, isBad]) => isBad));
    this.times.push(at);
    this.waiting = [];
    if (this.times.length < 2 * POINTS) return;
    // Of two values the larger one remains, because a plot must show each peak.
    const halved = (list, both) => list.filter((_, i) => i % 2 === 0).map((value, i) => both(value, list[2 * i + 1]));
    this.rows = this.rows.map(row => halved(row, larger));
    this.bad = halved(this.bad, (a, b) => a || b);
    this.times = halved(this.times, (_, b) => b);
    this.each *= 2;
  }

  /** The largest value. */
  get most() {
    return this.rows.flat().reduce(larger, null);
  }

  /** The mean interval between two points, in seconds. */
  get interval() {
    const { times } = this;
    return times.length < 2 ? 1 : (times.at(-1) - times[0]) / (times.length - 1);
  }

  /** Returns the first time of the axis, and the length of the axis in seconds. */
  span() {
    const { times } = this;
    const span = Math.max(times.at(-1) - times[0], LEAST_SECONDS);
    return [times.at(-1) - span, span];
  }

  /** Returns the index of the point that is nearest to a time, by binary search: the times are in ascending order. */
  nearest(time) {
    let low = 0, high = this.times.length - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.times[middle] < time) low = middle + 1; else high = middle;
    }
    return low > 0 && time - this.times[low - 1] < this.times[low] - time ? low - 1 : low;
  }
}

/** The lines of a series in an SVG. */
class Lines {
  constructor(series, area) {
    this.series = series;
    this.area = area ? make("path", { class: "area" }) : null;
    this.lines = series.rows.map((_, i) => make("path", { class: i ? "line second" : "line" }));
    this.svg = make("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none" });
  }

  /** Draws all points, with the value `top` at the upper edge. */
  draw(top) {
    const { rows, times } = this.series;
    const [from, span] = this.series.span();
    const x = i => ((times[i] - from) / span * WIDTH).toFixed(1);
    const y = value => (HEIGHT - value / top * HEIGHT).toFixed(1);
    const hole = HOLE * this.series.interval;
    rows.forEach((row, i) => {
      let line = "", area = "", start = null, last = null;
      const close = () => { if (start !== null) area += `L${x(last)} ${HEIGHT}L${x(start)} ${HEIGHT}z`; start = null; };
      row.forEach((value, at) => {
        // An unknown value interrupts the line.
        if (value === null || last !== null && times[at] - times[last] > hole) close();
        if (value === null) return;
        line += `${start === null ? "M" : "L"}${x(at)} ${y(value)}`;
        area += `${start === null ? "M" : "L"}${x(at)} ${y(value)}`;
        start ??= at;
        last = at;
      });
      close();
      this.lines[i].setAttribute("d", line);
      if (i === 0) this.area?.setAttribute("d", area);
    });
  }
}

/** A small line without axes, for a row of a table. */
export class Spark extends Lines {
  constructor(series) {
    super(series, true);
    this.svg.setAttribute("class", "spark");
    this.svg.setAttribute("aria-hidden", "true");
    this.svg.append(this.area, ...this.lines);
  }

  update() {
    if (this.series.times.length) this.draw(Math.max(this.series.most ?? 0, 1e-9) * 1.08);
  }
}

/** A tooltip: a vertical line and a text at the position of the pointer in an element. */
export class Tip {
  constructor(place) {
    this.place = place;
  }

  /** Shows a text at a horizontal position, as a percentage of the width of the element. */
  show(left, words) {
    if (!this.words) {
      this.words = element("output", "tip");
      this.mark = element("div", "mark");
    }
    if (!this.words.isConnected) this.place.append(this.mark, this.words);
    text(this.words, words);
    this.mark.style.left = `${left}%`;
    // The text extends from the line towards the middle of the screen, so that it does not leave the screen.
    const box = this.place.getBoundingClientRect();
    const isLeft = box.left + box.width * left / 100 < innerWidth / 2;
    this.words.style.left = isLeft ? `${left}%` : "auto";
    this.words.style.right = isLeft ? "auto" : `${100 - left}%`;
  }

  hide() {
    this.words?.remove();
    this.mark?.remove();
  }
}

/** A figure that shows a series, with a time axis, a scale and the values under the pointer. */
export class Plot extends Lines {
  constructor({ title, series, format, scale, names }) {
    super(series, true);
    this.title = title;
    this.format = format;
    this.scale = scale;
    this.names = names;
    this.element = element("figure");
    this.value = element("b");
    this.top = element("small", "scale");
    this.begin = element("small");
    const caption = element("figcaption");
    caption.append(element("span", "", title), this.value);
    this.svg.setAttribute("role", "img");
    this.badPeriods = make("path", { class: "bad-period" });
    const rule = y => make("line", { class: "base", x1: 0, x2: WIDTH, y1: y, y2: y });
    this.svg.append(this.badPeriods, rule(0), rule(HEIGHT), this.area, ...this.lines);
    const axis = element("div", "axis");
    axis.append(this.begin, element("small", "", "now"));
    this.place = element("div", "plot");
    this.place.append(this.svg, this.top);
    this.tip = new Tip(this.place);
    this.element.append(caption, this.place, axis);
    this.place.addEventListener("pointermove", event => this.hover(event.clientX));
    this.place.addEventListener("pointerleave", () => this.leave());
  }

  update(value) {
    if (!this.series.times.length) return;
    const most = this.series.most ?? 0;
    const top = this.scale(most);
    this.draw(top);
    const [from, span] = this.series.span();
    const { bad, times, interval } = this.series;
    const x = time => Math.max(0, (time - from) / span * WIDTH);
    let areas = "", begin = 0;
    bad.forEach((isBad, i) => {
      if (!isBad) return;
      if (!bad[i - 1]) begin = x(i ? times[i - 1] : times[i] - interval).toFixed(1);
      if (!bad[i + 1]) areas += `M${begin} 0H${x(times[i]).toFixed(1)}V${HEIGHT}H${begin}z`;
    });
    this.badPeriods.setAttribute("d", areas);
    text(this.value, value);
    text(this.top, this.format(top));
    text(this.begin, `−${seconds(Math.round(span))}`);
    const label = `${this.title}: ${value}; at most ${this.format(most)} in ${seconds(Math.round(span))}`;
    if (this.svg.getAttribute("aria-label") !== label) this.svg.setAttribute("aria-label", label);
    if (this.pointer !== undefined) this.hover(this.pointer);
  }

  /** Shows the values of the point that is nearest to a horizontal position on the screen. */
  hover(clientX) {
    const { times, rows } = this.series;
    if (!times.length) return;
    this.pointer = clientX;
    const box = this.place.getBoundingClientRect();
    const [from, span] = this.series.span();
    const at = this.series.nearest(from + Math.min(1, Math.max(0, (clientX - box.left) / box.width)) * span);
    const values = rows.map((row, i) => `${this.names ? `${this.names[i]} ` : ""}${row[at] === null ? "–" : this.format(row[at])}`);
    this.tip.show((times[at] - from) / span * 100, `${moment(new Date(times[at] * 1000))}  ${values.join(", ")}`);
  }

  leave() {
    this.pointer = undefined;
    this.tip.hide();
  }
}
