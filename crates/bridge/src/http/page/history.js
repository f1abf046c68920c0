// The lists of the history and of the gaps. Each line has a time and a text; the newest line is the first.

import { list } from "./tables.js";
import { moment, number, plain, seconds } from "./words.js";

const time = text => moment(new Date(text));

function part({ source, sink, kind }) {
  return source ?? sink ?? (/^(bridge|configuration)/.test(kind) ? "bridge" : "spool");
}

/** Shows the history of the bridge, which includes changes from before this page was opened. */
export function history(place, status) {
  list(place, status.history.map(entry => {
    const notes = [
      entry.reason && plain(entry.reason),
      entry.events && `${number(entry.events)} ${entry.events === 1 ? "event" : "events"}`,
      entry.seconds && seconds(entry.seconds),
      entry.last && `${number(entry.count)} times since ${time(entry.at)}`,
    ].filter(Boolean);
    return [time(entry.last ?? entry.at), `${part(entry)}: ${entry.text}${notes.length ? ` (${notes.join(", ")})` : ""}`];
  }), "No changes yet.");
}

/** Shows the open gaps first, then the ended ones. A source that was never connected is listed with the open gaps. */
export function gaps(place, { sources }) {
  const all = Object.entries(sources);
  const open = all.filter(([, source]) => source.unconnected_seconds !== null).map(([name, source]) => {
    const gap = source.newest_gaps.find(gap => gap.ended === null);
    const began = new Date(Date.now() - 1000 * source.unconnected_seconds);
    const words = `${name}: open for ${seconds(Math.round(source.unconnected_seconds))}`;
    return [moment(began), gap ? `${words}, ${plain(gap.reason)}` : words];
  });
  const past = all.flatMap(([name, source]) => source.newest_gaps.map(gap => ({ ...gap, name })))
    .filter(gap => gap.ended !== null)
    .sort((a, b) => b.began.localeCompare(a.began))
    .map(({ began, fetched, gaps, name, outcome, reason, seconds: length }) =>
      [time(began), `${name}: ${gaps > 1 ? `${number(gaps)} gaps, ` : ""}${seconds(length)}, ${plain(reason)}, ${plain(outcome)}${fetched ? `, ${number(fetched)} fetched` : ""}`]);
  list(place, [...open, ...past].slice(0, 50), "None on record.");
}
