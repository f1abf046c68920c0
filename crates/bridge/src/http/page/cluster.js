// The card of the cluster: the role of this bridge, and the members as it sees them. Hidden for a bridge outside of a cluster.

import { pill } from "./parts.js";
import { element, moment, number, plain, text } from "./words.js";

const TONES = { joining: "warn", joined: "good", unreachable: "bad", refused: "bad" };

/** Shows the cluster of a status. */
export function cluster(place, { cluster }) {
  place.hidden = !cluster;
  if (!cluster) return;
  const tone = TONES[cluster.join_state] ?? "bad";
  place.dataset.tone = tone;
  const [title, state] = [place.querySelector(".name"), place.querySelector(".pill")];
  text(title, `${cluster.name}, this member: ${cluster.member}`);
  pill(state, cluster.join_state === "joined" ? cluster.role : plain(cluster.join_state), tone);
  text(place.querySelector(".reason"), cluster.reason ?? "");
  facts(place.querySelector(".facts"), {
    role: cluster.role_since ? `${cluster.role} since ${moment(new Date(cluster.role_since))}` : cluster.role,
    term: cluster.term === null ? "–" : number(cluster.term),
    takeovers: number(cluster.takeovers),
  });
  members(place.querySelector("table"), cluster.members);
}

/** Shows facts as pairs. Their names do not change. */
function facts(place, all) {
  Object.entries(all).forEach(([title, value], i) => {
    const pair = place.children[i] ?? place.appendChild(element("div"));
    if (!pair.firstChild) pair.append(element("dt", "", title), element("dd"));
    text(pair.lastChild, value);
  });
}

/** Shows a row for each member. A lease in Kafka does not transport the lag of the other members. */
function members(table, all) {
  if (!table.tHead) {
    const head = table.createTHead().insertRow();
    for (const name of ["member", "state", "term", "lag"]) head.append(Object.assign(element("th", "", name), { scope: "col" }));
    table.createTBody();
  }
  const body = table.tBodies[0];
  all.forEach((member, i) => {
    const row = body.rows[i] ?? body.insertRow();
    const cells = [
      member.this ? `${member.name} (this one)` : member.name,
      !member.alive ? "no sign of life" : member.term === null ? "follower" : "leader",
      member.term === null ? "–" : number(member.term),
      member.lag_events === null ? "unknown" : number(member.lag_events),
    ];
    cells.forEach((value, j) => text(row.cells[j] ?? row.appendChild(Object.assign(element(j ? "td" : "th"), j ? {} : { scope: "row" })), value));
    if (member.alive) delete row.cells[1].dataset.tone;
    else row.cells[1].dataset.tone = "bad";
  });
  while (body.rows.length > all.length) body.deleteRow(-1);
}
