// Sources, spool and sinks: a card for each, made once and kept up to date, so that nothing jumps under a reader.

import { Plot, make } from "./plots.js";
import { bytes, moment, number, plain, rate, seconds, times, tone } from "./words.js";

/** Sets a text where it changes: what stays as it is stays selected. */
export function text(element, content) {
  if (element.textContent !== content) element.textContent = content;
}

export function element(name, classes = "", content = "") {
  const made = document.createElement(name);
  if (classes) made.className = classes;
  made.textContent = content;
  return made;
}

/** What a source, the spool and a sink have in common. */
class Card {
  constructor(title, kind) {
    this.element = element("article", "card part");
    const head = element("div", "head");
    this.title = element("h3", "", title);
    if (kind) this.title.append(" ", element("small", "", kind));
    this.state = element("span", "pill");
    head.append(this.title, this.state);
    this.since = element("p", "since");
    this.reason = element("p", "reason");
    this.plots = element("div", "plots");
    this.facts = element("dl", "facts");
    this.element.append(head, this.since, this.reason, this.plots, this.facts);
    this.drawn = [];
  }

  plot(title, lines, format) {
    const plot = new Plot(title, lines, format);
    this.plots.append(plot.element);
    this.drawn.push(plot);
    return plot;
  }

  fact(title) {
    const value = element("dd", "", "–");
    this.facts.append(element("dt", "", title), value);
    return value;
  }

  set(tone, state, since, reason) {
    this.element.dataset.tone = this.state.dataset.tone = tone;
    text(this.state, state);
    text(this.since, since);
    text(this.reason, reason);
  }

  draw(opened) {
    for (const plot of this.drawn) plot.draw(opened);
  }
}

export class SourceCard extends Card {
  constructor(name) {
    super(name);
    this.events = this.plot("received", 1, rate);
    this.ping = this.plot("round trip", 1, seconds);
    this.last = this.fact("last event");
    this.gaps = this.fact("gaps");
  }

  take(source, before, span) {
    const trouble = tone(source) === "bad";
    this.flow = perSecond(source.ledger.received, before?.ledger.received, span);
    this.events.push([this.flow], trouble, rate(this.flow));
    const trip = source.unconnected_seconds === null ? source.round_trip_seconds : null;
    this.ping.push([trip], trouble, seconds(trip));
  }

  show(source, now) {
    const open = source.unconnected_seconds;
    const since = `since ${moment(new Date(source.since))}`;
    this.set(tone(source), plain(source.state), open ? `${since}, without a connection for ${seconds(open)}` : since,
      source.reason ?? (source.last_platform_error ? `Last error of the platform: ${source.last_platform_error}` : ""));
    const last = source.last_event && new Date(source.last_event);
    text(this.last, last ? `${moment(last)}, ${seconds(Math.max(0, Math.round((now - last) / 1000)))} ago` : "none yet");
    const past = source.gaps ? `${number(source.gaps)}, ${seconds(source.gap_seconds)} in all` : "";
    // Without a first connection since the start there is no gap yet, but nothing is received either.
    const current = open === null ? "" : `open for ${seconds(open)}`;
    text(this.gaps, [current, past].filter(Boolean).join("; ") || "none");
  }
}

export class SpoolCard extends Card {
  constructor(spool) {
    super(spool.type === "disk" ? "On disk" : "In memory");
    this.fill = element("div", "fill");
    this.fill.append(element("div"));
    this.fill.setAttribute("role", "meter");
    this.fill.setAttribute("aria-label", "fill level of the spool");
    this.fill.setAttribute("aria-valuemin", "0");
    this.fill.setAttribute("aria-valuemax", "100");
    this.plots.before(this.fill);
    this.held = this.plot("pending", 1, bytes);
    this.size = this.fact("of");
    this.kept = this.fact(spool.type === "disk" ? "on disk" : "in memory");
    this.full = this.fact("full in");
    this.events = this.fact("stored up to");
    this.dropped = this.fact("dropped");
  }

  take(spool, before, span) {
    // What the spool keeps for `retain` gives way to new events, so only pending events fill it.
    this.held.push([spool.pending_bytes], spool.is_full || spool.has_failed, bytes(spool.pending_bytes));
    const growth = before ? (spool.pending_bytes - before.pending_bytes) / span : 0;
    // Over half a minute or so: a spool breathes.
    this.growth = this.growth === undefined ? growth : this.growth + (growth - this.growth) * Math.min(1, span / 30);
  }

  show(spool) {
    const share = spool.pending_bytes / spool.limit_bytes;
    const worst = spool.has_failed ? "bad" : spool.is_full || share > .9 ? "bad" : share > .5 ? "warn" : "good";
    this.set(worst, spool.has_failed ? "failed" : spool.is_full ? "full" : `${(share * 100).toFixed(share < .1 && share >= .001 ? 1 : 0)} % full`, "", "");
    this.fill.firstChild.style.width = `${Math.min(100, share * 100)}%`;
    this.fill.setAttribute("aria-valuenow", Math.round(share * 100));
    this.fill.setAttribute("aria-valuetext", `${bytes(spool.pending_bytes)} of ${bytes(spool.limit_bytes)}`);
    text(this.size, bytes(spool.limit_bytes));
    text(this.kept, bytes(spool.size_bytes));
    const left = (spool.limit_bytes - spool.pending_bytes) / this.growth;
    text(this.full, spool.is_full ? "now" : this.growth > 1 && left < 30 * 86400 ? `about ${seconds(left)}` : "more than 30 days");
    text(this.events, number(spool.durable_sequence));
    text(this.dropped, number(spool.dropped_events + spool.damaged_events));
  }
}

export class SinkCard extends Card {
  constructor(name, sink) {
    super(name, sink.type === name ? "" : sink.type);
    if (!sink.required) this.title.append(" ", element("small", "", "optional"));
    this.events = this.plot("delivered", 1, rate);
    this.lag = this.plot("waiting", 1, number);
    this.time = this.plot("latency: half, 99 %", 2, seconds);
    this.oldest = this.fact("oldest pending");
    this.ways = this.fact("in flight");
    this.recent = [];
  }

  take(sink, before, span) {
    const trouble = tone(sink) === "bad";
    this.flow = perSecond(sink.ledger.delivered, before?.ledger.delivered, span);
    this.events.push([this.flow], trouble, rate(this.flow));
    this.lag.push([sink.lag_events], trouble, number(sink.lag_events));
    this.recent.push(sink.latency);
    // Ten seconds: enough events for a hundredth of them to mean something.
    if (this.recent.length > 20) this.recent.shift();
    const quantiles = [.5, .99].map(share => quantile(this.recent[0], sink.latency, share));
    this.time.push(quantiles, trouble, quantiles[0] === null ? "–" : times(...quantiles));
  }

  show(sink) {
    this.set(tone(sink), plain(sink.state), `since ${moment(new Date(sink.since))}`, sink.reason ?? sink.notice ?? "");
    text(this.oldest, sink.lag_seconds >= 1 ? seconds(sink.lag_seconds) : "0 s");
    text(this.ways, sink.resent ? `${number(sink.in_flight)}; ${number(sink.resent)} sent again so far` : number(sink.in_flight));
  }
}

/** A rate; null where it is not known, as after a restart. */
function perSecond(now, before, span) {
  return before === undefined || now < before ? null : (now - before) / span;
}

/** Within which time that share of the events was acknowledged that came between two looks; null without any. */
function quantile(from, to, share) {
  const events = to.events - from.events;
  if (events <= 0) return null;
  let low = 0, under = 0;
  for (const [bound, count] of Object.entries(to.within).map(([bound, count]) => [Number(bound), count - from.within[bound]]).sort(([a], [b]) => a - b)) {
    if (count >= share * events) return low + (bound - low) * (share * events - under) / (count - under);
    low = bound;
    under = count;
  }
  return low;
}

/** The lines between the cards, with what flows along them. */
export function connect(svg, groups) {
  const origin = svg.getBoundingClientRect();
  const [sources, [spool], sinks] = groups.map(cards => cards.map(card => ({ card, box: card.element.getBoundingClientRect() })));
  if (!spool) return;
  const stacked = sources.length > 0 && sources[0].box.bottom <= spool.box.top;
  const paths = [...sources.map(source => [source, spool, source.card]), ...sinks.map(sink => [spool, sink, sink.card])];
  const wanted = paths.flatMap(([from, to, card], i) => {
    // On a narrow page the cards are a column: only neighbours are joined.
    if (stacked && from !== sources.at(-1) && to !== sinks[0]) return [];
    const d = stacked ? down(from.box, to.box, origin) : across(from.box, to.box, origin);
    return [{ d, tone: card.element.dataset.tone, moves: card.flow > 0, key: i }];
  });
  while (svg.childElementCount < 2 * wanted.length) svg.append(make("path", {}));
  while (svg.childElementCount > 2 * wanted.length) svg.lastChild.remove();
  wanted.forEach(({ d, tone, moves }, i) => {
    const [track, flow] = [svg.children[2 * i], svg.children[2 * i + 1]];
    for (const path of [track, flow]) if (path.getAttribute("d") !== d) path.setAttribute("d", d);
    flow.setAttribute("class", "flow");
    flow.dataset.tone = tone;
    flow.toggleAttribute("data-moves", moves);
  });
}

function across(from, to, origin) {
  const [x1, y1] = [from.right - origin.left, from.top + from.height / 2 - origin.top];
  const [x2, y2] = [to.left - origin.left, to.top + to.height / 2 - origin.top];
  const bend = (x2 - x1) / 2;
  return `M${x1} ${y1}C${x1 + bend} ${y1} ${x2 - bend} ${y2} ${x2} ${y2}`;
}

function down(from, to, origin) {
  const x = from.left + from.width / 2 - origin.left;
  return `M${x} ${from.bottom - origin.top}V${to.top - origin.top}`;
}
