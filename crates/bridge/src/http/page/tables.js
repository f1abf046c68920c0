// The tables of the ledgers and the list of the dead letters.

import { deadLetterReason, element, moment, number, text } from "./words.js";

const TITLES = { dead_lettered: "dead letters", in_flight: "in flight" };

/** Shows the ledgers of sources or sinks. The last column is the number of unexplained events: the total minus all other columns.
    Returns the number of ledgers with unexplained events. */
export function ledger(table, what, total, parts, isOpen) {
  const keys = Object.keys(Object.values(parts)[0]?.ledger ?? {}).filter(key => key !== total);
  const rest = ({ ledger }) => ledger[total] - keys.reduce((sum, key) => sum + ledger[key], 0);
  const wrong = Object.values(parts).filter(part => rest(part) !== 0).length;
  if (!isOpen) return wrong;
  if (!table.tHead) {
    const head = table.createTHead().insertRow();
    for (const name of [what, total, ...keys.map(key => TITLES[key] ?? key), "unexplained"])
      head.append(Object.assign(element("th", "", name), { scope: "col" }));
    table.createTBody();
  }
  const body = table.tBodies[0];
  Object.entries(parts).forEach(([name, part], i) => {
    const row = body.rows[i] ?? body.insertRow();
    const unexplained = rest(part);
    const cells = [name, part.ledger[total], ...keys.map(key => part.ledger[key]), unexplained];
    cells.forEach((value, j) => {
      const cell = row.cells[j] ?? row.appendChild(Object.assign(element(j ? "td" : "th"), j ? {} : { scope: "row" }));
      text(cell, j ? number(value) : value);
      if (!j) return;
      cell.toggleAttribute("data-zero", value === 0);
      if (["dropped", "damaged"].includes(keys[j - 2])) tint(cell, value > 0 && "bad");
      if (keys[j - 2] === "dead_lettered") tint(cell, value > 0 && "warn");
      if (j === cells.length - 1) tint(cell, value === 0 ? "good" : "bad");
    });
  });
  while (body.rows.length > Object.keys(parts).length) body.deleteRow(-1);
  return wrong;
}

/** Sets the tone of an element, or removes the tone if `tone` is falsy. */
export function tint(place, tone) {
  if (!tone) delete place.dataset.tone;
  else if (place.dataset.tone !== tone) place.dataset.tone = tone;
}

/** Shows the newest dead letters of all sources and sinks. */
export function deadLetters(place, { sources, sinks }) {
  const of = parts => Object.entries(parts).flatMap(([name, part]) => part.newest_dead_letters.map(letter => ({ ...letter, name })));
  const all = [...of(sources), ...of(sinks)].sort((a, b) => b.at.localeCompare(a.at));
  list(place, all.slice(0, 16).map(({ at, name, reason, sequence }) =>
    [moment(new Date(at)), `${name}: ${deadLetterReason(reason)}${sequence === null ? "" : `, no. ${number(sequence)}`}`]), "None.");
}

/** Shows a list with a time and a text in each line. Replaces the elements only if a line has changed. */
export function list(place, lines, none) {
  const key = JSON.stringify(lines);
  if (place.dataset.key === key) return;
  place.dataset.key = key;
  place.replaceChildren(...lines.length === 0 ? [element("li", "none", none)] : lines.map(([time, words]) => {
    const line = element("li");
    line.append(element("time", "", time), element("span", "", words));
    return line;
  }));
}
