// Formatting of numbers, times and states, and the elements that hold them.

const SPACE = "http://www.w3.org/2000/svg";

/** Sets a text if it differs, so that a selection is kept. The last text is remembered, because reading it from the page is slow. */
export function text(element, content) {
  if (element.shown === content) return;
  element.shown = content;
  element.textContent = content;
}

export function element(name, classes = "", content = "") {
  const made = document.createElement(name);
  if (classes) made.className = classes;
  if (content) text(made, content);
  return made;
}

/** An element of an SVG. */
export function make(name, attributes) {
  const element = document.createElementNS(SPACE, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

export const number = n => Math.round(n).toLocaleString("en");

export const rate = n => n === null ? "–" : `${n < 9.95 && n > 0 ? n.toFixed(1) : number(n)}/s`;

export function seconds(s) {
  if (s === null || s === undefined) return "–";
  if (s === 0) return "0 s";
  if (s < 0.0995) return `${(s * 1000).toFixed(s < 0.00995 ? 1 : 0)} ms`;
  if (s < 10) return `${Number.isInteger(s) ? s : s.toFixed(1)} s`;
  if (s < 120) return `${Math.round(s)} s`;
  if (s < 7200) return `${Math.round(s / 60)} min`;
  return s < 172800 ? `${(s / 3600).toFixed(1)} h` : `${(s / 86400).toFixed(1)} days`;
}

/** Two times, with their unit once where it is the same. */
export function times(one, other) {
  if (one === null) return "–";
  const [first, second] = [seconds(one), seconds(other)];
  const unit = second.slice(second.indexOf(" "));
  return `${first.endsWith(unit) ? first.slice(0, -unit.length) : first} · ${second}`;
}

export function bytes(b) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  while (b >= 1024 && units.length > 1) { b /= 1024; units.shift(); }
  return `${units[0] === "B" || b >= 10 || Number.isInteger(b) ? Math.round(b) : b.toFixed(1)} ${units[0]}`;
}

const STEPS = [1, 1.5, 2, 3, 5, 8, 10];

/** The end of a scale: the next round number. */
export function scale(most, least = 10) {
  const wanted = Math.max(most, least);
  const power = 10 ** Math.floor(Math.log10(wanted));
  return power * (STEPS.find(step => step * power >= wanted * .9999) ?? 10);
}

export const scaleOfSeconds = most => {
  const minutes = [60, 120, 300, 600, 1200, 1800, 3600].find(end => most > 50 && end >= most);
  return minutes ?? (most > 3600 ? 3600 * scale(most / 3600, 1) : scale(most, .001));
};

export const scaleOfBytes = most => 2 ** Math.ceil(Math.log2(Math.max(most, 1024)));

/** The time of day, with the date when it is not today's. */
export function moment(date) {
  const time = date.toLocaleTimeString("en-GB");
  return date.toDateString() === new Date().toDateString() ? time : `${date.toLocaleDateString("en-CA")} ${time}`;
}

/** A key of the status in plain text. */
export const plain = word => word.replaceAll("_", " ");

const DEAD_LETTER_REASONS = {
  too_large: "larger than the sink's limit",
  invalid: "rejected as invalid by the sink",
  unrenderable: "cannot be rendered as a message",
  unroutable: "its topic or subject does not exist",
  missing_key: "missing the key that the topic requires",
};

export const deadLetterReason = reason => DEAD_LETTER_REASONS[reason] ?? plain(reason);

const TONES = {
  authenticated: "good", up: "good", blocked: "warn", draining: "warn", refused: "bad", waiting: "bad", down: "bad",
};

/** The tone of a state. Before the first connection, a source or sink without a reason is not a fault yet. */
export const tone = part => TONES[part.state] ?? (part.reason ? "bad" : "warn");

/** The tones, the worst first. */
export const SEVERITY = ["bad", "warn", "idle", "good"];

export const ANSWERS = { no: ["No", "good"], at_risk: ["At risk", "warn"], yes: ["Yes", "bad"] };
