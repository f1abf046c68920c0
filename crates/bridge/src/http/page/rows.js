// A table with a row for each source or sink, for a page with too many of them for one card each. Rows with a fault are the first
// ones; a field filters the rows, and a row that is opened shows a card.

import { Card, pill } from "./parts.js";
import { Spark } from "./plots.js";
import { SEVERITY, element, text } from "./words.js";

/** A table of sources or sinks. The plots of rows outside the screen are not drawn. */
export class Rows {
  /** `titles`: the titles of the columns after name and state. The first of these columns contains the plot. */
  constructor(what, titles) {
    this.what = what;
    this.rows = new Map();
    this.order = [];
    this.element = element("section", "card rows");
    const heading = element("h2", "", what);
    heading.id = `${what}-rows`;
    this.element.setAttribute("aria-labelledby", heading.id);
    this.filter = element("input");
    this.filter.type = "search";
    this.filter.placeholder = "name or address";
    this.filter.setAttribute("aria-label", `Filter ${what.toLowerCase()}`);
    this.filter.addEventListener("input", () => this.apply());
    this.count = element("span", "soft");
    const head = element("div", "head");
    head.append(heading, this.count, this.filter);
    const table = element("table");
    const titlesRow = table.createTHead().insertRow();
    for (const title of ["name", "state", ...titles]) titlesRow.append(Object.assign(element("th", "", title), { scope: "col" }));
    this.body = table.createTBody();
    const scroll = element("div", "scroll");
    scroll.append(table);
    this.element.append(head, scroll);
    this.columns = titles.length + 2;
    this.watcher = new IntersectionObserver(seen => { for (const { target, isIntersecting } of seen) target.row.isSeen = isIntersecting; }, { root: scroll, rootMargin: "100px" });
  }

  /** Updates the table from the models and views of all parts, by name. */
  update(models, views) {
    for (const [name, row] of this.rows) if (!models.has(name)) { row.remove(this.watcher); this.rows.delete(name); }
    for (const [name, model] of models) {
      if (!this.rows.has(name)) this.rows.set(name, new Row(model, this));
      this.rows.get(name).update(views.get(name));
    }
    this.sort();
    this.apply();
  }

  /** Sorts the rows, those with a fault first. Moves elements only if the order has changed. */
  sort() {
    const rank = row => SEVERITY.indexOf(row.element.dataset.tone);
    const order = [...this.rows.values()].sort((a, b) => rank(a) - rank(b) || a.model.name.localeCompare(b.model.name));
    if (order.length === this.order.length && order.every((row, i) => row === this.order[i])) return;
    this.order = order;
    const focused = document.activeElement;
    this.body.append(...order.flatMap(row => row.elements));
    // The focused element loses the focus when its row is moved.
    if (focused !== document.activeElement) focused?.focus({ preventScroll: true });
  }

  /** Hides the rows that do not match the filter. */
  apply() {
    const wanted = this.filter.value.trim().toLowerCase();
    let shown = 0;
    for (const row of this.rows.values()) {
      const fits = row.text.includes(wanted);
      shown += fits;
      for (const element of row.elements) if (element.hidden === fits) element.hidden = !fits;
    }
    text(this.count, wanted ? `${shown} of ${this.rows.size}` : `${this.rows.size}`);
  }
}

/** A row of the table. */
class Row {
  constructor(model, { columns, watcher }) {
    this.model = model;
    this.columns = columns;
    this.text = `${model.name} ${model.kind ?? ""} ${model.where}`.toLowerCase();
    this.element = element("tr");
    this.element.row = this;
    const name = element("th");
    name.scope = "row";
    this.button = element("button", "open", model.name);
    this.button.type = "button";
    this.button.setAttribute("aria-expanded", "false");
    this.button.addEventListener("click", () => this.toggle());
    const line = element("div", "title");
    line.append(this.button);
    if (model.kind) line.append(element("small", "", model.kind));
    line.append(element("span", "where", model.where));
    name.append(line);
    const state = element("td");
    this.state = element("span", "pill");
    this.since = element("small", "since");
    state.append(this.state, " ", this.since);
    this.spark = new Spark(model.events);
    this.cells = Array.from({ length: columns - 2 }, () => element("td"));
    this.values = this.cells.map((cell, i) => {
      const value = element("span");
      cell.append(...i === 0 ? [this.spark.svg, value] : [value]);
      return value;
    });
    this.element.append(name, state, ...this.cells);
    watcher.observe(this.element);
  }

  update(view) {
    this.view = view;
    if (this.element.dataset.tone !== view.tone) this.element.dataset.tone = view.tone;
    pill(this.state, view.state, view.tone);
    text(this.since, view.tone === "good" ? "" : view.since.replace(/,.*/, ""));
    this.explain(view);
    view.cells.forEach((cell, i) => text(this.values[i], cell));
    if (this.isSeen) this.spark.update();
    this.card?.update(view);
  }

  /** The table rows of this part, in order: the values, the reason, and the card. */
  get elements() {
    return [this.element, this.why, this.detail].filter(Boolean);
  }

  /** Shows the reason of the state or, without a reason, a problem below the row, unless the card of the row is open. */
  explain({ reason, problem }) {
    const words = reason || problem;
    if (!words || this.card) {
      this.why?.remove();
      this.why = null;
      return;
    }
    if (!this.why) {
      this.why = this.wide("why", element("p", "reason"));
      this.element.after(this.why);
    }
    this.why.dataset.tone = reason ? this.element.dataset.tone : "bad";
    text(this.why.firstChild.firstChild, words);
  }

  /** Creates a row with one cell that spans all columns. */
  wide(classes, content) {
    const row = element("tr", classes);
    const cell = element("td");
    cell.colSpan = this.columns;
    cell.append(content);
    row.append(cell);
    return row;
  }

  /** Shows or removes the card of this row. */
  toggle() {
    const isOpen = this.button.getAttribute("aria-expanded") !== "true";
    this.button.setAttribute("aria-expanded", isOpen);
    if (!isOpen) {
      this.detail.remove();
      this.detail = this.card = null;
      this.explain(this.view);
      return;
    }
    this.card = new Card(this.model);
    this.card.update(this.view);
    this.explain(this.view);
    this.detail = this.wide("detail", this.card.element);
    this.element.after(this.detail);
  }

  remove(watcher) {
    watcher.unobserve(this.element);
    for (const element of this.elements) element.remove();
  }
}
