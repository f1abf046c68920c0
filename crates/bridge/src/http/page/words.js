// Formats numbers, times and states, and creates the elements that show them.

const SPACE = "http://www.w3.org/2000/svg";

/** Sets the text of an element if it differs, so that a selection by the reader remains. Compares with the last text that was
    set, because reading the text from the page is slow. */
export function text(element, content) {
  if (element.shown === content) return;
  element.shown = content;
  element.textContent = content;
}

/** Returns a new HTML element. */
export function element(name, classes = "", content = "") {
  const made = document.createElement(name);
  if (classes) made.className = classes;
  if (content) text(made, content);
  return made;
}

/** Returns a new SVG element. */
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

/** Returns the text for two durations, with the unit only once if both have the same unit. */
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

/** Returns the upper end of a scale: the smallest round number that is not less than the largest value. */
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

/** Returns the time of day, with the date if the date is not today's. */
export function moment(date) {
  const time = date.toLocaleTimeString("en-GB");
  return date.toDateString() === new Date().toDateString() ? time : `${date.toLocaleDateString("en-CA")} ${time}`;
}

/** Returns a key of the status as plain text. */
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
  standby: "idle",
};

/** Returns the tone of the state of a source or sink. A first connection attempt without a reason is not a fault yet. */
export const tone = part => TONES[part.state] ?? (part.reason ? "bad" : "warn");

/** The tones, from the worst to the best. */
export const SEVERITY = ["bad", "warn", "idle", "good"];

export const ANSWERS = { no: ["No", "good"], at_risk: ["At risk", "warn"], yes: ["Yes", "bad"] };
