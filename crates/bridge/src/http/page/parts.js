// Models of the sources, the spool and the sinks, which collect values over time, and the card that shows a model.

import { Plot, Series } from "./plots.js";
import { Connection, ConnectionPlot } from "./timeline.js";
import { bytes, element, moment, number, plain, rate, scale, scaleOfBytes, scaleOfSeconds, seconds, SEVERITY, text, times, tone } from "./words.js";

/** The model of a source. `view` returns the present state for the card and the row of the source. */
export class Source {
  constructor(name, source) {
    this.name = name;
    this.where = source.address;
    this.events = new Series();
    this.ping = new Series();
    this.connection = new Connection();
    this.plots = [
      { title: "received", series: this.events, format: rate, scale },
      { title: "round trip", series: this.ping, format: seconds, scale: scaleOfSeconds },
    ];
  }

  update(source, before, span, at, clock) {
    this.connection.update(source, at, clock);
    const isBad = tone(source) === "bad";
    this.flow = perSecond(source.ledger.received, before?.ledger.received, span);
    this.events.push([this.flow], isBad, at);
    this.trip = source.unconnected_seconds === null ? source.round_trip_seconds : null;
    this.ping.push([this.trip], isBad, at);
  }

  view(source, now) {
    const open = source.unconnected_seconds;
    const since = `since ${moment(new Date(source.since))}`;
    const last = source.last_event && new Date(source.last_event);
    const age = last ? `${seconds(Math.max(0, Math.round((now - last) / 1000)))} ago` : "none yet";
    const past = source.gaps ? `${number(source.gaps)}, ${seconds(source.gap_seconds)}` : "";
    // Before the first connection since the start, the bridge reports no gap, although no event is received.
    const current = open === null ? "" : `open for ${seconds(Math.round(open))}`;
    return {
      tone: tone(source),
      state: plain(source.state),
      since: open ? `${since}, without a connection for ${seconds(open)}` : since,
      reason: source.reason ?? (source.last_platform_error ? `Last error of the platform: ${source.last_platform_error}` : ""),
      values: [rate(this.flow), seconds(this.trip)],
      problem: source.tokens?.problem ?? "",
      facts: {
        "last event": last ? `${moment(last)}, ${age}` : age,
        gaps: [current, past && `${past} in all`].filter(Boolean).join("; ") || "none",
        ...source.tokens && tokenFacts(source.tokens, now),
      },
      cells: [rate(this.flow), seconds(this.trip), age, current || past || "none"],
    };
  }
}

/** Returns the facts about a created token: the times of its expiry and of its next renewal. */
function tokenFacts({ expires, renews }, now) {
  const moments = (time, past) => {
    if (time === null) return "–";
    const left = Math.round((new Date(time) - now) / 1000);
    return left > 0 ? `${moment(new Date(time))}, in ${seconds(left)}` : past;
  };
  return { "token expires": moments(expires, "expired"), "next renewal": moments(renews, "now") };
}

/** The model of a sink. */
export class Sink {
  constructor(name, sink) {
    this.name = name;
    this.kind = [sink.type === name ? "" : sink.type, sink.required ? "" : "optional"].filter(Boolean).join(", ");
    this.where = sink.destination;
    this.events = new Series();
    this.lag = new Series();
    this.time = new Series(2);
    this.recent = [];
    this.plots = [
      { title: "delivered", series: this.events, format: rate, scale },
      { title: "pending", series: this.lag, format: number, scale },
      { title: "latency p50 · p99", series: this.time, format: seconds, scale: scaleOfSeconds, names: ["p50", "p99"] },
    ];
  }

  update(sink, before, span, at) {
    const isBad = tone(sink) === "bad";
    this.flow = perSecond(sink.ledger.delivered, before?.ledger.delivered, span);
    this.events.push([this.flow], isBad, at);
    this.lag.push([sink.lag_events], isBad, at);
    this.recent.push(sink.latency);
    // The quantiles cover the last ten seconds, so that they include enough events for a meaningful p99.
    if (this.recent.length > 20) this.recent.shift();
    this.quantiles = [.5, .99].map(share => quantile(this.recent[0], sink.latency, share));
    this.time.push(this.quantiles, isBad, at);
  }

  view(sink) {
    const oldest = sink.lag_seconds >= 1 ? seconds(sink.lag_seconds) : "0 s";
    const latency = times(...this.quantiles);
    return {
      tone: tone(sink),
      state: plain(sink.state),
      since: `since ${moment(new Date(sink.since))}`,
      reason: sink.reason ?? sink.notice ?? "",
      values: [rate(this.flow), number(sink.lag_events), latency],
      facts: {
        "oldest pending": oldest,
        "in flight": sink.resent ? `${number(sink.in_flight)}; ${number(sink.resent)} sent again so far` : number(sink.in_flight),
      },
      cells: [rate(this.flow), number(sink.lag_events), oldest, latency],
    };
  }
}

/** The model of the spool. */
export class Spool {
  constructor(spool) {
    this.name = spool.type === "disk" ? "On disk" : "In memory";
    this.pending = new Series();
    this.plots = [{ title: "pending", series: this.pending, format: bytes, scale: scaleOfBytes }];
  }

  update(spool, before, span, at) {
    // The spool deletes settled events that it retains for `retain` when it needs space, so only pending events fill it.
    this.pending.push([spool.pending_bytes], spool.is_full || spool.has_failed, at);
    const growth = before ? (spool.pending_bytes - before.pending_bytes) / span : 0;
    // Smoothed over about half a minute, because the number of pending bytes fluctuates.
    this.growth = this.growth === undefined ? growth : this.growth + (growth - this.growth) * Math.min(1, span / 30);
    this.flow = perSecond(spool.durable_sequence, before?.durable_sequence, span);
  }

  view(spool) {
    const share = spool.pending_bytes / spool.limit_bytes;
    const percent = `${(share * 100).toFixed(share < .1 && share >= .001 ? 1 : 0)} % full`;
    const left = (spool.limit_bytes - spool.pending_bytes) / this.growth;
    const [tone, state, reason] =
      spool.has_failed ? ["bad", "failed", "The disk has refused a write: nothing more is stored. The log has the error."] :
      spool.is_disk_full ? ["bad", "disk full", `The disk has no space left for the spool, of which ${bytes(spool.size_bytes)} of ${bytes(spool.limit_bytes)} are in use. Free some space: the sources are not read until then.`] :
      spool.is_full ? ["bad", "full", "The limit is reached, and the sources are not read until a sink delivers or the limit is raised."] :
      spool.is_retrying ? ["bad", "waiting", "The system has no open files or memory for the spool at the moment."] :
      [share > .9 ? "bad" : share > .5 ? "warn" : "good", percent, ""];
    return {
      tone, state, reason, share, percent, since: "",
      values: [bytes(spool.pending_bytes)],
      facts: {
        "of": bytes(spool.limit_bytes),
        [spool.type === "disk" ? "on disk" : "in memory"]: bytes(spool.size_bytes),
        "full in": spool.is_full ? "now" : this.growth > 1 && left < 30 * 86400 ? `about ${seconds(left)}` : "over 30 days",
        "stored up to": number(spool.durable_sequence),
        "dropped": number(spool.dropped_events + spool.damaged_events),
      },
    };
  }
}

/** The model of all sources or all sinks together, for a page with too many of them for one card each. */
export class Group {
  constructor(what, title) {
    this.what = what;
    this.name = what;
    this.events = new Series();
    this.plots = [{ title, series: this.events, format: rate, scale }];
  }

  /** Adds up the values of the models of the parts, after these have processed the status. */
  update(models, isBad, at) {
    const flows = models.map(model => model.flow).filter(flow => flow !== null && flow !== undefined);
    this.flow = flows.length ? flows.reduce((sum, flow) => sum + flow, 0) : null;
    this.events.push([this.flow], isBad, at);
  }

  /** Returns the view of all parts together, from the views of the parts (`views`) and the facts about all of them (`facts`). */
  view(views, facts) {
    const counts = new Map();
    for (const { tone, state } of views) {
      const key = `${tone} ${state}`;
      counts.set(key, (counts.get(key) ?? 0) + 1);
    }
    const states = [...counts].map(([key, count]) => [key.split(" ")[0], `${count} ${key.slice(key.indexOf(" ") + 1)}`])
      .sort(([a], [b]) => SEVERITY.indexOf(a) - SEVERITY.indexOf(b));
    return { tone: states[0]?.[0] ?? "idle", states, since: "", reason: "", values: [rate(this.flow)], facts };
  }
}

/** A card that shows a model. Its elements are created once and then updated, so that nothing moves while a person reads. */
export class Card {
  constructor(model) {
    this.model = model;
    this.element = element("article", "card part");
    const head = element("div", "head");
    const title = element("h3", "", model.name);
    if (model.kind) title.append(" ", element("small", "", model.kind));
    this.states = element("span", "states");
    head.append(title, this.states);
    this.where = element("p", "where", model.where);
    this.since = element("p", "since");
    this.reason = element("p", "reason");
    this.problem = element("p", "reason");
    this.problem.dataset.tone = "bad";
    this.plots = model.plots.map(plot => new Plot(plot));
    if (model.connection) this.plots.push(new ConnectionPlot(model));
    const plots = element("div", "plots");
    plots.append(...this.plots.map(plot => plot.element));
    this.facts = element("dl", "facts");
    this.values = {};
    this.element.append(head, this.where, this.since, this.reason, this.problem, plots, this.facts);
    if (model instanceof Spool) this.addMeter(plots);
  }

  addMeter(before) {
    this.meter = element("div", "fill");
    this.meter.append(element("div"));
    for (const [key, value] of Object.entries({ role: "meter", "aria-label": "fill level of the spool", "aria-valuemin": 0, "aria-valuemax": 100 }))
      this.meter.setAttribute(key, value);
    this.element.insertBefore(this.meter, before);
  }

  update(view) {
    this.element.dataset.tone = view.tone;
    const states = view.states ?? [[view.tone, view.state]];
    while (this.states.childElementCount > states.length) this.states.lastChild.remove();
    states.forEach(([tone, state], i) => pill(this.states.children[i] ?? this.states.appendChild(element("span", "pill")), state, tone));
    text(this.since, view.since);
    text(this.reason, view.reason);
    text(this.problem, view.problem ?? "");
    for (const [title, value] of Object.entries(view.facts)) {
      if (!this.values[title]) {
        const pair = element("div");
        this.values[title] = element("dd");
        pair.append(element("dt", "", title), this.values[title]);
        this.facts.append(pair);
      }
      text(this.values[title], value);
    }
    if (this.meter) {
      this.meter.firstChild.style.width = `${Math.min(100, view.share * 100)}%`;
      this.meter.setAttribute("aria-valuenow", Math.round(view.share * 100));
      this.meter.setAttribute("aria-valuetext", `${view.values[0]} of ${view.facts.of}`);
    }
    this.plots.forEach((plot, i) => plot.update(view.values[i]));
  }
}

/** Sets the text and the tone of a pill. */
export function pill(place, word, tone) {
  text(place, word);
  if (place.dataset.tone !== tone) place.dataset.tone = tone;
}

/** Returns a rate in events per second, or null if it is unknown, for example after a restart of the bridge. */
function perSecond(now, before, span) {
  return before === undefined || now < before ? null : (now - before) / span;
}

/** Returns a quantile of the latency in seconds: the time within which the share `share` of the events between two statuses was
    acknowledged. Returns null without events. */
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
