// The script of the page: shows the status that the bridge streams, and whether the bridge responds.

import { cluster } from "./cluster.js";
import { gaps, history } from "./history.js";
import { pill } from "./parts.js";
import { deadLetters, ledger, tint } from "./tables.js";
import { Way } from "./way.js";
import { ANSWERS, element, moment, number, plain, rate, seconds, text } from "./words.js";

const $ = id => document.getElementById(id);
// The time without a message, in ms, after which the bridge counts as unreachable. A message is sent every half second.
const SILENCE = 2000;
// The delay after a failed connection to the stream, and the time limit of a request, in ms.
const RETRY = 1000;
// With more sources and sinks than MANY, the page is updated only every INTERVAL ms, because a person cannot read a hundred rows twice a second.
const MANY = 20, INTERVAL = 950;
// The largest number of lines in the list of changes.
const MOST_CHANGES = 50;
// The largest number of reasons below the answer.
const MOST_REASONS = 6;

const way = new Way($);
let before = null, last = null, heard = performance.now(), tried = heard, shown = 0, isUnresponsive = false, paused = false, stream = null, version = null;
let states = new Map();

/** Opens the stream of statuses. After a failure, requests one status without the stream, and tries again. */
function listen() {
  stream?.close();
  tried = performance.now();
  stream = new EventSource("status/stream");
  stream.onmessage = message => update(JSON.parse(message.data));
  stream.onerror = async () => {
    stream.close();
    // The stream fails also when too many clients listen to it, or when a proxy does not forward streams.
    try {
      const answer = await fetch("status", { cache: "no-store", signal: AbortSignal.timeout(RETRY) });
      if (!answer.ok) throw new Error(answer.statusText);
      update(await answer.json());
    } catch {
      lost();
    }
    setTimeout(listen, RETRY);
  };
}

/** Processes a status of the bridge: updates the models, and shows the status if the page is not paused and an update is due. */
function update(status) {
  heard = performance.now();
  // The page of an earlier version of the bridge may not know all fields of this status.
  if (version !== null && version !== status.version) location.reload();
  version = status.version;
  if (before && status.uptime_seconds < before.uptime_seconds) {
    note("The bridge was restarted", "warn");
    before = null;
  }
  const back = isUnresponsive;
  isUnresponsive = false;
  if (back) note("The bridge responds again", "good");
  const span = before ? Math.max(.001, status.uptime_seconds - before.uptime_seconds) : 1;
  way.update(status, before, span, Date.now() / 1000);
  let isNews = back || before?.losing_events.answer !== status.losing_events.answer;
  for (const kind of ["sources", "sinks"])
    for (const [name, part] of Object.entries(status[kind])) isNews = changed(name, part) || isNews;
  if (status.cluster) isNews = changed(`cluster ${status.cluster.name}`, stateInCluster(status.cluster)) || isNews;
  before = last = status;
  const parts = Object.keys(status.sources).length + Object.keys(status.sinks).length;
  if (back || !paused && !document.hidden && (isNews || parts <= MANY || heard - shown >= INTERVAL)) show();
}

/** Adds a line for a changed state, and returns whether the state has changed. */
function changed(name, part) {
  const was = states.get(name);
  states.set(name, part.state);
  if (was === undefined || was === part.state) return false;
  const tones = { leader: "good", unreachable: "bad", authenticated: "good", up: "good", waiting: "bad", refused: "bad", down: "bad", blocked: "warn" };
  note(`${name}: ${plain(part.state)}${part.reason ? `. ${part.reason}` : ""}`, tones[part.state] ?? "idle");
  return true;
}

/** Returns the membership in a cluster as the state of a part: the role of a member that has joined. */
const stateInCluster = ({ join_state, role, reason }) => ({ state: join_state === "joined" ? role : join_state, reason });

/** Adds a line at the top of the list of changes. */
function note(sentence, tone) {
  const line = element("li");
  line.dataset.tone = tone;
  line.append(element("time", "", moment(new Date())), element("span", "", sentence));
  $("seen").querySelector(".none")?.remove();
  $("seen").prepend(line);
  if ($("seen").childElementCount > MOST_CHANGES) $("seen").lastChild.remove();
}

/** Shows immediately that the bridge does not respond, once for each outage. */
function lost() {
  if (isUnresponsive) return;
  isUnresponsive = true;
  note("The bridge does not respond", "bad");
  show();
}

/** Shows the last status, or that the bridge does not respond. */
function show() {
  shown = performance.now();
  const status = last;
  document.documentElement.classList.toggle("unresponsive", isUnresponsive);
  pill($("link"), ...isUnresponsive ? ["no response", "bad"] : paused ? ["paused", "warn"] : ["live", "good"]);
  if (!status) {
    answer("Unknown", "bad", ["The bridge does not respond. The page retries every second."]);
    return;
  }
  const now = new Date();
  const { losing_events: losing } = status;
  const [word, tone] = ANSWERS[losing.answer];
  const before = losing.lost_events > 0 || losing.missed_seconds > 0;
  if (isUnresponsive) answer("Unknown", "bad", [`The bridge does not respond: it has stopped, or the network is down. The data below is from ${moment(new Date(Date.now() - performance.now() + heard))}.`]);
  // Events that were lost earlier are not a present fault, but the page still shows a warning.
  else answer(word, tone === "good" && before ? "warn" : tone, losing.because);
  text($("lost"), number(losing.lost_events));
  tint($("lost"), losing.lost_events > 0 && "bad");
  text($("missed"), seconds(losing.missed_seconds));
  tint($("missed"), losing.missed_seconds > 0 && "warn");
  text($("received"), number(Object.values(status.sources).reduce((sum, source) => sum + source.ledger.received, 0)));
  text($("instance"), status.instance);
  text($("version"), `${status.version}, up ${seconds(status.uptime_seconds)}`);
  document.documentElement.dataset.uptime = status.uptime_seconds;
  const spool = way.show(status, now);
  const { sources, sinks } = way.sides;
  text($("strip"), `${$("word").shown} · ${rate(sources.flow)} → ${spool.percent} → ${rate(sinks.flow)}`);
  cluster($("cluster"), status);
  ledgers(status);
  deadLetters($("dead-letters"), status);
  gaps($("gaps"), status);
  history($("history"), status);
  text($("at"), `Shown: ${moment(now)}`);
}

/** Updates the ledgers. The list is collapsed at first if it is long, and updated only while it is expanded. */
function ledgers(status) {
  if ($("ledgers").dataset.many !== String(way.isMany)) {
    $("ledgers").dataset.many = way.isMany;
    $("ledgers").open = !way.isMany;
  }
  const isOpen = $("ledgers").open;
  const wrong = ledger($("source-ledgers"), "source", "received", status.sources, isOpen) + ledger($("sink-ledgers"), "sink", "stored", status.sinks, isOpen);
  pill($("sums"), wrong ? `${wrong} with unexplained events` : "all add up", wrong ? "bad" : "good");
}

/** Shows the answer to the question whether events are lost, with the reasons. The text for screen readers contains no number
    that changes all the time: a screen reader would read it twice a second. */
function answer(word, tone, because) {
  $("answer").dataset.tone = $("strip").dataset.tone = tone;
  text($("word"), word);
  const all = because.length;
  if (all > MOST_REASONS) because = [...because.slice(0, MOST_REASONS - 1), `And ${all - MOST_REASONS + 1} more: see the states below.`];
  const list = $("because");
  if (list.textContent !== because.join("")) list.replaceChildren(...because.map(sentence => element("li", "", sentence)));
  text($("said"), isUnresponsive ? "The bridge does not respond." : `Losing events: ${word}. ${because.join(" ")}`);
  document.title = [isUnresponsive ? "no response" : word, last?.instance, "neurobridge"].filter(Boolean).join(" · ");
  const colour = { good: "0b7a75", warn: "b36b00", bad: "c62828", idle: "607080" }[tone];
  const shape = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><rect width="32" height="32" rx="8" fill="#${colour}"/><path d="M4 22h24M8 22v-9m16 9v-9M4 18c3 0 4-5 4-5s2 6 8 6 8-6 8-6 1 5 4 5" fill="none" stroke="#fff" stroke-width="2.2" stroke-linecap="round"/></svg>`;
  const icon = `data:image/svg+xml,${encodeURIComponent(shape)}`;
  if ($("icon").href !== icon) $("icon").href = icon;
}

$("seen").append(element("li", "none", "Nothing has changed."));
$("pause").addEventListener("click", () => {
  paused = !paused;
  $("pause").setAttribute("aria-pressed", paused);
  show();
});
$("ledgers").addEventListener("toggle", () => last && ledgers(last));
document.addEventListener("visibilitychange", () => document.hidden || paused || show());
new ResizeObserver(() => way.connect()).observe($("way"));
// While the cards of the sources, the spool and the sinks are not on the screen, the header shows their rates.
new IntersectionObserver(([{ isIntersecting }]) => document.documentElement.classList.toggle("scrolled", !isIntersecting)).observe($("way"));
setInterval(() => {
  const now = performance.now();
  if (now - heard > SILENCE) lost();
  // A connection may be dead although the browser has fired no error event.
  if (now - Math.max(heard, tried) > 5 * SILENCE) listen();
}, 250);
listen();
