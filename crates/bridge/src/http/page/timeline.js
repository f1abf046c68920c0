// Timelines of the connections, which show when each source was connected, and its gaps with their outcomes.

import { Tip } from "./plots.js";
import { element, moment, number, plain, seconds, text } from "./words.js";

/** The outcomes of a gap, and the meaning of each outcome. */
const OUTCOMES = {
  open: "not connected now",
  filling: "the missed events are being fetched",
  recovered: "no event is missed",
  partly: "some of the missed events were fetched",
  unrecovered: "the events of this time are missed",
  left_to_leader: "the leader of the cluster has received or reported the events",
};
/** The possible time axes: length and distance of the marks, in seconds. The timeline uses the shortest one that contains all
    recorded connections. */
const AXES = [[120, 30], [600, 120], [3600, 600], [6 * 3600, 3600], [24 * 3600, 4 * 3600]];
/** The number of sources above which the timeline lists only sources with a gap. */
const LANES = 8;
/** The largest distance between the pointer and a selected gap, in pixels, because the pointer can hardly hit a short gap. */
const NEAR = 5;

const share = value => value === 0 || value === 1 ? `${100 * value} %` : `${(Math.floor(value * 1e4) / 100).toFixed(2)} %`;

/** The connection of a source over time. Times are in seconds by the clock of this browser. */
export class Connection {
  since = null;
  gaps = [];

  /** Processes the status of the source. `at`: the present time; `clock`: the clock of this browser minus that of the bridge. */
  update(source, at, clock) {
    const local = time => Date.parse(time) / 1000 + clock;
    this.since = source.connection_known_since === null ? null : local(source.connection_known_since);
    this.gaps = source.newest_gaps.map(gap => ({ ...gap, from: local(gap.began), to: gap.ended === null ? Infinity : local(gap.ended) }));
    if (source.unconnected_seconds === null || this.gaps.some(gap => gap.ended === null)) return;
    // The bridge reports no gap before the first connection of a source, although the source is not connected.
    const from = at - source.unconnected_seconds;
    this.gaps.unshift({ from, to: Infinity, reason: "no connection yet", outcome: "open", fetched: 0, gaps: 1 });
    this.since ??= from;
  }

  /** Returns the gaps between two times, and the share of the recorded time in which the source was connected: null if no time
      between the two is on record. */
  between(from, to) {
    const gaps = this.gaps.filter(gap => gap.to >= from && gap.from <= to);
    const begin = Math.max(from, this.since ?? to);
    if (begin >= to) return { gaps, share: null, seconds: 0 };
    const lost = gaps.reduce((sum, gap) => sum + Math.max(0, Math.min(gap.to, to) - Math.max(gap.from, begin)), 0);
    return { gaps, share: Math.max(0, 1 - lost / (to - begin)), seconds: lost };
  }
}

/** Returns the description of a gap, in two lines. */
function words(gap, now) {
  const from = new Date(gap.from * 1000);
  const until = gap.to === Infinity ? "now" : moment(new Date(gap.to * 1000));
  const length = gap.gaps > 1 ? `${number(gap.gaps)} gaps, ${seconds(gap.seconds)}` : seconds(Math.min(gap.to, now) - gap.from);
  const fetched = gap.fetched ? `, ${number(gap.fetched)} ${gap.fetched === 1 ? "event" : "events"} fetched` : "";
  return `${moment(from)} – ${until}, ${length}\n${plain(gap.reason)}; ${plain(gap.outcome)}${fetched}`;
}

/** A strip that shows the connection of a source between two times. */
class Strip {
  constructor() {
    this.element = element("div", "strip");
    this.element.setAttribute("role", "img");
    this.known = element("div", "known");
    this.element.append(this.known);
    this.marks = [];
    this.tip = new Tip(this.element);
    for (const name of ["pointermove", "pointerdown"]) this.element.addEventListener(name, event => this.hover(event.clientX));
    this.element.addEventListener("pointerleave", () => this.leave());
  }

  /** Draws the strip, and returns the gaps between the two times, the share of connected time and a summary. */
  draw(connection, from, to, name) {
    const found = connection.between(from, to);
    Object.assign(this, { connection, from, to });
    const x = time => Math.min(100, Math.max(0, (time - from) / (to - from) * 100));
    place(this.known, connection.since === null ? 100 : x(connection.since), 100);
    while (this.marks.length > found.gaps.length) this.marks.pop().remove();
    found.gaps.forEach((gap, i) => {
      const mark = this.marks[i] ??= this.element.appendChild(element("div", "gap"));
      if (mark.dataset.outcome !== gap.outcome) mark.dataset.outcome = gap.outcome;
      place(mark, x(gap.from), x(gap.to));
    });
    const count = found.gaps.reduce((sum, gap) => sum + gap.gaps, 0);
    found.summary = count ? `${number(count)} ${count === 1 ? "gap" : "gaps"}, ${seconds(found.seconds)}` : "no gap";
    const label = `${name}: ${found.share === null ? "not on record" : `connected ${share(found.share)} of the time`}; ${found.summary}`;
    if (this.element.getAttribute("aria-label") !== label) this.element.setAttribute("aria-label", label);
    if (this.pointer !== undefined) this.hover(this.pointer);
    return found;
  }

  hover(clientX) {
    if (!this.connection) return;
    this.pointer = clientX;
    const { from, to } = this;
    const box = this.element.getBoundingClientRect();
    const at = from + Math.min(1, Math.max(0, (clientX - box.left) / box.width)) * (to - from);
    const near = NEAR / box.width * (to - from);
    const distance = gap => Math.max(gap.from - at, at - gap.to, 0);
    const [gap] = this.connection.gaps.filter(gap => distance(gap) <= near).sort((a, b) => distance(a) - distance(b));
    const known = this.connection.since !== null && at >= this.connection.since;
    const content = gap ? words(gap, to) : `${moment(new Date(at * 1000))}  ${known ? "connected" : "not on record"}`;
    this.tip.show((at - from) / (to - from) * 100, content);
  }

  leave() {
    this.pointer = undefined;
    this.tip.hide();
  }
}

/** Positions an element between two percentages of the width, if these have changed. */
function place(element, from, to) {
  moved(element, "left", from);
  moved(element, "width", to - from);
}

/** Sets a side or the width of an element to a percentage, if this has changed. */
function moved(element, side, share) {
  const value = `${share.toFixed(2)}%`;
  const places = element.places ??= {};
  if (places[side] !== value) element.style[side] = places[side] = value;
}

/** A strip for the card of a source, with the same time axis as the plots of the card. */
export class ConnectionPlot {
  constructor(model) {
    this.model = model;
    this.strip = new Strip();
    this.element = element("figure", "connection");
    this.value = element("b");
    this.begin = element("small");
    const caption = element("figcaption");
    caption.append(element("span", "", "connected"), this.value);
    const axis = element("div", "axis");
    axis.append(this.begin, element("small", "", "now"));
    this.element.append(caption, this.strip.element, axis);
  }

  update() {
    const [from, span] = this.model.events.span();
    const { share: connected, gaps, summary } = this.strip.draw(this.model.connection, from, from + span, "connection");
    text(this.value, connected === null ? "–" : gaps.length ? `${share(connected)} · ${summary}` : share(connected));
    text(this.begin, `−${seconds(Math.round(span))}`);
  }
}

/** The timeline of all sources, of at most one day. */
export class Timeline {
  constructor(section) {
    this.lanes = new Map();
    this.grid = element("div", "grid");
    this.place = section.querySelector(".lanes");
    this.place.append(this.grid);
    this.rest = section.querySelector(".rest");
    const legend = section.querySelector(".legend");
    for (const [outcome, meaning] of [["connected", "a connection was open"], ...Object.entries(OUTCOMES)]) {
      const item = element("li");
      const sample = element("span", "strip");
      const shape = element("span", outcome === "connected" ? "known" : "gap");
      if (outcome !== "connected") shape.dataset.outcome = outcome;
      sample.append(shape);
      item.title = meaning;
      item.append(sample, plain(outcome));
      legend.append(item);
    }
    this.title = section.querySelector(".soft");
  }

  /** Shows the connections of these models, by name. */
  show(models, now) {
    const since = Math.min(...[...models.values()].map(({ connection }) => connection.since ?? now));
    const [span, step] = AXES.find(([span]) => now - since <= span) ?? AXES.at(-1);
    const from = now - span;
    const all = [...models].filter(([, { connection }]) => models.size <= LANES || connection.between(from, now).gaps.length > 0);
    for (const [name, lane] of this.lanes) {
      if (all.some(([other]) => other === name)) continue;
      lane.elements.forEach(element => element.remove());
      this.lanes.delete(name);
    }
    for (const [name, { connection }] of all) {
      const lane = this.lanes.get(name) ?? this.add(name);
      const { share: connected, gaps, summary } = lane.strip.draw(connection, from, now, name);
      const fetched = gaps.reduce((sum, gap) => sum + gap.fetched, 0);
      text(lane.share, connected === null ? "–" : share(connected));
      text(lane.summary, `${summary}${fetched ? `, ${number(fetched)} fetched` : ""}`);
    }
    this.place.dataset.span = span;
    text(this.title, `The last ${span < 3600 ? `${span / 60} minutes` : span === 3600 ? "hour" : `${span / 3600} hours`}.`);
    text(this.rest, all.length < models.size ? `${number(models.size - all.length)} sources without a gap are not listed.` : "");
    this.axis(from, span, step);
  }

  add(name) {
    const lane = { strip: new Strip(), share: element("b"), summary: element("span") };
    const facts = element("span", "facts");
    facts.append(lane.share, " ", lane.summary);
    lane.elements = [element("span", "name", name), facts, lane.strip.element];
    this.lanes.set(name, lane);
    this.place.append(...lane.elements);
    return lane;
  }

  /** Draws the marks of the time axis over all lanes, at round times of the day. */
  axis(from, span, step) {
    const zone = new Date().getTimezoneOffset() * 60;
    const first = Math.ceil((from - zone) / step) * step + zone;
    const times = [];
    for (let time = first; time < from + span; time += step) times.push(time);
    while (this.grid.childElementCount > times.length + 1) this.grid.lastChild.remove();
    while (this.grid.childElementCount < times.length + 1) this.grid.append(element("small"));
    times.forEach((time, i) => {
      const share = (time - from) / span * 100;
      const mark = this.grid.children[i + 1];
      moved(mark, "left", share);
      // A label near the right end would overlap the label "now".
      text(mark, share < 86 ? new Date(time * 1000).toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit", second: step < 60 ? "2-digit" : undefined }) : "");
    });
    const end = this.grid.firstChild;
    text(end, "now");
    if (end.className !== "end") end.className = "end";
  }
}
