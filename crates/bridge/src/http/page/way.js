// The cards of the sources, the spool and the sinks, and the lines that join the cards. More than four sources, or sinks,
// share one card.

import { Card, Group, Sink, Source, Spool } from "./parts.js";
import { Rows } from "./rows.js";
import { Timeline } from "./timeline.js";
import { make, number, seconds } from "./words.js";

/** The number of sources or sinks above which they share one card and are listed in a table. */
const CARDS = 4;

const COLUMNS = {
  sources: ["received", "round trip", "last event", "gaps"],
  sinks: ["delivered", "pending", "oldest pending", "p50 · p99"],
};

/** One side of the spool: all sources, or all sinks. */
class Side {
  constructor(kind, make, place, list) {
    Object.assign(this, { kind, make, place, list });
    this.models = new Map();
    this.cards = new Map();
  }

  get isMany() {
    return this.models.size > CARDS;
  }

  /** Processes the status of all parts. Creates the models and cards again if the configured parts have changed. */
  update(parts, before, span, at, clock) {
    const names = Object.keys(parts);
    if (names.length !== this.models.size || names.some(name => !this.models.has(name))) this.build(parts);
    for (const [name, part] of Object.entries(parts)) this.models.get(name).update(part, before?.[name], span, at, clock);
    this.parts = parts;
    this.group?.update([...this.models.values()], this.views(new Date()).some(({ tone }) => tone === "bad"), at);
  }

  build(parts) {
    this.models = new Map(Object.entries(parts).map(([name, part]) => [name, this.make(name, part)]));
    this.group = this.isMany ? new Group(`${number(this.models.size)} ${this.kind}`, COLUMNS[this.kind][0]) : null;
    this.rows = this.isMany ? new Rows(`All ${this.kind}`, COLUMNS[this.kind]) : null;
    this.cards = new Map(this.isMany ? [[this.kind, new Card(this.group)]] : [...this.models].map(([name, model]) => [name, new Card(model)]));
    this.place.replaceChildren(...[...this.cards.values()].map(card => card.element));
    this.list.replaceChildren(...this.rows ? [this.rows.element] : []);
  }

  views(now) {
    return Object.entries(this.parts).map(([name, part]) => this.models.get(name).view(part, now));
  }

  show(now) {
    const views = this.views(now);
    if (!this.isMany) {
      [...this.cards.values()].forEach((card, i) => card.update(views[i]));
      return;
    }
    this.cards.get(this.kind).update(this.group.view(views, this.facts()));
    this.rows.update(this.models, new Map([...this.models.keys()].map((name, i) => [name, views[i]])));
  }

  /** Returns the facts about all parts together. */
  facts() {
    const parts = Object.values(this.parts);
    const sum = of => parts.reduce((sum, part) => sum + of(part), 0);
    if (this.kind === "sources") {
      const gaps = sum(part => part.gaps);
      return { "not connected": number(parts.filter(part => part.unconnected_seconds !== null).length), "gaps": gaps ? `${number(gaps)}, ${seconds(sum(part => part.gap_seconds))} in all` : "none" };
    }
    const oldest = Math.max(...parts.map(part => part.lag_seconds));
    return { "most pending": number(Math.max(...parts.map(part => part.lag_events))), "oldest pending": oldest >= 1 ? seconds(oldest) : "0 s", "in flight": number(sum(part => part.in_flight)) };
  }

  /** The rate of all parts together, in events per second. */
  get flow() {
    const flows = [...this.models.values()].map(model => model.flow ?? 0);
    return flows.reduce((sum, flow) => sum + flow, 0);
  }
}

/** The cards of the sources, the spool and the sinks, with the tables and the timeline. */
export class Way {
  constructor($) {
    this.svg = $("lines");
    this.sides = {
      sources: new Side("sources", (name, part) => new Source(name, part), $("sources"), $("source-rows")),
      sinks: new Side("sinks", (name, part) => new Sink(name, part), $("sinks"), $("sink-rows")),
    };
    this.place = $("spool");
    this.timeline = new Timeline($("timeline"));
  }

  get isMany() {
    return this.sides.sources.isMany || this.sides.sinks.isMany;
  }

  update(status, before, span, at) {
    const clock = at - Date.parse(status.time) / 1000;
    for (const [kind, side] of Object.entries(this.sides)) side.update(status[kind], before?.[kind], span, at, clock);
    this.at = at;
    if (!this.spool) {
      this.spool = new Card(new Spool(status.spool));
      this.place.append(this.spool.element);
    }
    this.spool.model.update(status.spool, before?.spool, span, at);
  }

  /** Shows a status. Returns the spool's view. */
  show(status, now) {
    for (const side of Object.values(this.sides)) side.show(now);
    const view = this.spool.model.view(status.spool);
    this.spool.update(view);
    this.timeline.show(this.sides.sources.models, this.at);
    this.connect();
    return view;
  }

  /** Draws the lines between the cards. */
  connect() {
    if (!this.spool) return;
    const origin = this.svg.getBoundingClientRect();
    const boxed = card => ({ card, box: card.element.getBoundingClientRect() });
    const [sources, sinks] = Object.values(this.sides).map(side => [...side.cards.values()].map(boxed));
    const spool = boxed(this.spool);
    const stacked = sources.length > 0 && sources[0].box.right > spool.box.left;
    const paths = [...sources.map(source => [source, spool, source.card]), ...sinks.map(sink => [spool, sink, sink.card])];
    const wanted = paths.flatMap(([from, to, card]) => {
      // On a narrow page the cards form one column, and only neighbours are joined.
      if (stacked && from !== sources.at(-1) && to !== sinks[0]) return [];
      const d = stacked ? down(from.box, to.box, origin) : across(from.box, to.box, origin);
      return [{ d, tone: card.element.dataset.tone, moves: card.model.flow > 0 }];
    });
    while (this.svg.childElementCount < 2 * wanted.length) this.svg.append(make("path", {}));
    while (this.svg.childElementCount > 2 * wanted.length) this.svg.lastChild.remove();
    wanted.forEach(({ d, tone, moves }, i) => {
      const [track, flow] = [this.svg.children[2 * i], this.svg.children[2 * i + 1]];
      for (const path of [track, flow]) if (path.getAttribute("d") !== d) path.setAttribute("d", d);
      if (flow.getAttribute("class") !== "flow") flow.setAttribute("class", "flow");
      if (flow.dataset.tone !== tone) flow.dataset.tone = tone;
      flow.toggleAttribute("data-moves", moves);
    });
  }
}

/** Returns the path of a line between two cards that are side by side. */
function across(from, to, origin) {
  const [x1, y1] = [from.right - origin.left, from.top + from.height / 2 - origin.top];
  const [x2, y2] = [to.left - origin.left, to.top + to.height / 2 - origin.top];
  const bend = (x2 - x1) / 2;
  return `M${x1} ${y1}C${x1 + bend} ${y1} ${x2 - bend} ${y2} ${x2} ${y2}`;
}

/** Returns the path of a line between two cards, of which the second is below the first. */
function down(from, to, origin) {
  const x = from.left + from.width / 2 - origin.left;
  return `M${x} ${from.bottom - origin.top}V${to.top - origin.top}`;
}
