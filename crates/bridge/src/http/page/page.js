// The page: lives from the stream of the status, and says of itself when the bridge is gone.

import { SinkCard, SourceCard, SpoolCard, connect, element, text } from "./parts.js";
import { ANSWERS, deadLetterReason, moment, number, plain, seconds } from "./words.js";

const $ = id => document.getElementById(id);
// A message comes every half second. Without any for so long, the bridge hangs or the network does.
const SILENCE = 2000;
const AGAIN = 1000;
const SEEN = 50;

const opened = moment(new Date());
const cards = { sources: new Map(), sinks: new Map(), spool: null };
let before = null, last = null, heard = performance.now(), tried = heard, gone = false, paused = false, stream = null, version = null;
let states = new Map();

function listen() {
  stream?.close();
  tried = performance.now();
  stream = new EventSource("status/stream");
  stream.onmessage = message => take(JSON.parse(message.data));
  stream.onerror = async () => {
    stream.close();
    // There may be too many listeners, or something between that lets no stream through.
    try {
      const answer = await fetch("status", { cache: "no-store", signal: AbortSignal.timeout(AGAIN) });
      if (!answer.ok) throw new Error(answer.statusText);
      take(await answer.json());
    } catch {
      lost();
    }
    setTimeout(listen, AGAIN);
  };
}

/** What the bridge said. */
function take(status) {
  heard = performance.now();
  // A page of another version may not know what this one says.
  if (version !== null && version !== status.version) location.reload();
  version = status.version;
  if (before && status.uptime_seconds < before.uptime_seconds) {
    note("The bridge was restarted", "warn");
    before = null;
  }
  const back = gone;
  gone = false;
  if (back) note("The bridge responds again", "good");
  const span = before ? Math.max(.001, status.uptime_seconds - before.uptime_seconds) : 1;
  keep(cards.sources, status.sources, $("sources"), name => new SourceCard(name));
  keep(cards.sinks, status.sinks, $("sinks"), (name, sink) => new SinkCard(name, sink));
  if (!cards.spool) {
    cards.spool = new SpoolCard(status.spool);
    $("spool").append(cards.spool.element);
  }
  for (const kind of ["sources", "sinks"])
    for (const [name, part] of Object.entries(status[kind])) {
      cards[kind].get(name).take(part, before?.[kind][name], span);
      changed(name, part);
    }
  cards.spool.take(status.spool, before?.spool, span);
  before = last = status;
  if (!paused || back) show();
}

/** A card for each part, in the order of their names. */
function keep(known, parts, place, make) {
  for (const [name, card] of known) if (!(name in parts)) { card.element.remove(); known.delete(name); }
  for (const [name, part] of Object.entries(parts)) {
    if (known.has(name)) continue;
    known.set(name, make(name, part));
    place.append(known.get(name).element);
  }
}

function changed(name, part) {
  const was = states.get(name);
  states.set(name, part.state);
  if (was === undefined || was === part.state) return;
  const tones = { authorised: "good", up: "good", waiting: "bad", refused: "bad", down: "bad", blocked: "warn" };
  note(`${name}: ${plain(part.state)}${part.reason ? `. ${part.reason}` : ""}`, tones[part.state] ?? "idle");
}

/** Writes down what was seen, the newest first. */
function note(sentence, tone) {
  const line = element("li");
  line.dataset.tone = tone;
  const words = element("span", "", sentence);
  line.append(element("time", "", moment(new Date())), words);
  $("seen").querySelector(".none")?.remove();
  $("seen").prepend(line);
  if ($("seen").childElementCount > SEEN) $("seen").lastChild.remove();
}

/** The bridge does not respond. Said at once, and only once. */
function lost() {
  if (gone) return;
  gone = true;
  note("The bridge does not respond", "bad");
  show();
}

function show() {
  const status = last;
  document.documentElement.classList.toggle("gone", gone);
  pill($("link"), ...gone ? ["gone", "bad"] : paused ? ["paused", "warn"] : ["live", "good"]);
  if (!status) {
    answer("Unknown", "bad", ["The bridge does not respond. The page retries every second."]);
    return;
  }
  const { losing_events: losing } = status;
  const [word, tone] = ANSWERS[losing.answer];
  if (gone) answer("Unknown", "bad", [`The bridge does not respond: it has stopped, or the network is down. The data below is from ${moment(new Date(Date.now() - performance.now() + heard))}.`]);
  else answer(word, tone, losing.because);
  text($("lost"), number(losing.lost_events));
  text($("missed"), seconds(losing.missed_seconds));
  text($("received"), number(Object.values(status.sources).reduce((sum, source) => sum + source.ledger.received, 0)));
  text($("version"), `${status.version}, up ${seconds(status.uptime_seconds)}`);
  document.documentElement.dataset.uptime = status.uptime_seconds;
  const now = new Date();
  for (const kind of ["sources", "sinks"])
    for (const [name, part] of Object.entries(status[kind])) cards[kind].get(name).show(part, now);
  cards.spool.show(status.spool);
  for (const card of [...cards.sources.values(), ...cards.sinks.values(), cards.spool]) card.draw(opened);
  ledger($("source-ledgers"), "source", "received", status.sources);
  ledger($("sink-ledgers"), "sink", "stored", status.sinks);
  letters(status);
  gaps(status);
  text($("at"), `Shown: ${moment(now)}`);
  lines();
}

function lines() {
  connect($("lines"), [[...cards.sources.values()], cards.spool ? [cards.spool] : [], [...cards.sinks.values()]]);
}

/** What is said aloud holds no number that goes on: it would be read twice a second. */
function answer(word, tone, because) {
  $("answer").dataset.tone = tone;
  text($("word"), word);
  const list = $("because");
  if (list.textContent !== because.join("")) list.replaceChildren(...because.map(sentence => element("li", "", sentence)));
  text($("said"), gone ? "The bridge does not respond." : `Losing events: ${word}. ${because.join(" ")}`);
  document.title = gone ? "gone · neurobridge" : `${word} · neurobridge`;
  const colour = { good: "0b7a75", warn: "b36b00", bad: "c62828", idle: "607080" }[tone];
  const shape = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><rect width="32" height="32" rx="8" fill="#${colour}"/><path d="M4 22h24M8 22v-9m16 9v-9M4 18c3 0 4-5 4-5s2 6 8 6 8-6 8-6 1 5 4 5" fill="none" stroke="#fff" stroke-width="2.2" stroke-linecap="round"/></svg>`;
  const icon = `data:image/svg+xml,${encodeURIComponent(shape)}`;
  if ($("icon").href !== icon) $("icon").href = icon;
}

function pill(place, word, tone) {
  text(place, word);
  place.dataset.tone = tone;
}

const TITLES = { dead_lettered: "dead letters", in_flight: "in flight" };

/** A table of ledgers; its last column is what the others leave unexplained. */
function ledger(table, what, total, parts) {
  const keys = Object.keys(Object.values(parts)[0]?.ledger ?? {}).filter(key => key !== total);
  if (!table.tHead) {
    const head = table.createTHead().insertRow();
    for (const name of [what, total, ...keys.map(key => TITLES[key] ?? key), "unexplained"])
      head.append(Object.assign(element("th", "", name), { scope: "col" }));
    table.createTBody();
  }
  const body = table.tBodies[0];
  Object.entries(parts).forEach(([name, { ledger }], i) => {
    const row = body.rows[i] ?? body.insertRow();
    const unexplained = ledger[total] - keys.reduce((sum, key) => sum + ledger[key], 0);
    const cells = [name, ledger[total], ...keys.map(key => ledger[key]), unexplained];
    cells.forEach((value, j) => {
      const cell = row.cells[j] ?? row.appendChild(Object.assign(element(j ? "td" : "th"), j ? {} : { scope: "row" }));
      text(cell, j ? number(value) : value);
      if (!j) return;
      cell.toggleAttribute("data-zero", value === 0);
      if (["dropped", "damaged"].includes(keys[j - 2]) && value > 0) cell.dataset.tone = "bad";
      if (keys[j - 2] === "dead_lettered" && value > 0) cell.dataset.tone = "warn";
      if (j === cells.length - 1) cell.dataset.tone = value === 0 ? "good" : "bad";
    });
  });
  while (body.rows.length > Object.keys(parts).length) body.deleteRow(-1);
}

function letters({ sources, sinks }) {
  const of = parts => Object.entries(parts).flatMap(([name, part]) => part.newest_dead_letters.map(letter => ({ ...letter, name })));
  const all = [...of(sources), ...of(sinks)].sort((a, b) => b.at.localeCompare(a.at));
  list($("letters"), all.slice(0, 16).map(({ at, name, reason, sequence }) =>
    [moment(new Date(at)), `${name}: ${deadLetterReason(reason)}${sequence === null ? "" : `, no. ${number(sequence)}`}`]), "None.");
}

function gaps({ sources }) {
  const open = Object.entries(sources).filter(([, source]) => source.unconnected_seconds !== null)
    .map(([name, source]) => [moment(new Date(Date.now() - 1000 * source.unconnected_seconds)), `${name}: open for ${seconds(Math.round(source.unconnected_seconds))}`]);
  const past = Object.entries(sources).flatMap(([name, source]) => source.newest_gaps.map(gap => ({ ...gap, name })))
    .sort((a, b) => b.began.localeCompare(a.began));
  list($("gaps"), [...open, ...past.map(({ began, name, seconds: length, reason }) =>
    [moment(new Date(began)), `${name}: ${seconds(length)}, ${plain(reason)}`])], "None since the start.");
}

/** Lines of a time and words; replaced only when they change. */
function list(place, lines, none) {
  const key = JSON.stringify(lines);
  if (place.dataset.key === key) return;
  place.dataset.key = key;
  place.replaceChildren(...lines.length === 0 ? [element("li", "none", none)] : lines.map(([time, words]) => {
    const line = element("li");
    line.append(element("time", "", time), element("span", "", words));
    return line;
  }));
}

$("seen").append(element("li", "none", "Nothing has changed."));
$("pause").addEventListener("click", () => {
  paused = !paused;
  $("pause").setAttribute("aria-pressed", paused);
  show();
});
new ResizeObserver(lines).observe($("way"));
setInterval(() => {
  const now = performance.now();
  if (now - heard > SILENCE) lost();
  // A connection of which no end has come may be dead all the same.
  if (now - Math.max(heard, tried) > 5 * SILENCE) listen();
}, 250);
listen();
