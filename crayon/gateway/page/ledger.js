// The ledger: what left, what was kept back, and what that saved.

import { ask, json } from "./api.js";
import { byId, bytes, count, element, fixed, notice } from "./dom.js";

let reasons = {};

export function begin(known) {
  reasons = known;
  byId("since").addEventListener("change", look);
  byId("refresh").addEventListener("click", look);
  byId("export").addEventListener("click", save);
}

function since() {
  const age = Number(byId("since").value);
  return age ? Date.now() / 1000 - age : 0;
}

export async function look() {
  try {
    const found = await json(`crayon/ledger?since=${since()}`);
    byId("sums").replaceChildren(...rows(found).flatMap(([label, value]) => [
      element("dt", { textContent: label }), element("dd", { textContent: value })]));
    byId("entries").replaceChildren(...found.entries.map(line));
  } catch (error) {
    notice(error.message);
  }
}

function rows(found) {
  const sums = found.sums;
  if (!sums.answers && !sums.requests) return [["answers", "none yet"]];
  const share = sums.answers ? (sums.answers - sums.on_device) / sums.answers : 0;
  const tokens = sums.device_tokens + sums.server_tokens;
  const made = [
    ["answers", `${count(sums.answers)}, ${count(sums.on_device)} by the device`],
    ["nothing left for", `${count(sums.nothing_left)} of them`],
    ["sent", `${bytes(sums.bytes)} in ${count(sums.requests)} requests`],
    ...Object.entries(sums.to).map(([address, size]) => [`to ${address}`, bytes(size)]),
  ];
  if (sums.unreached) made.push(["not known to have arrived", bytes(sums.unreached)]);
  const kinds = Object.entries(sums.kept_back);
  if (kinds.length) made.push(["private data found", kinds.map(([kind, times]) => `${kind} (${times})`).join(", ")]);
  if (tokens) {
    made.push(["against all on the server", `${count(sums.device_tokens)} of ${count(tokens)} tokens were never the server's work`]);
    if (share > 0) made.push(["against sending at random", `the router sent ${Math.round(100 * share)} %; who sends as many by chance sends ${
      Math.round(100 * share)} % of the private ones, too`]);
  }
  if (found.damaged) made.push(["lines that cannot be read", count(found.damaged)]);
  if (found.left_out) made.push(["older entries not shown", `${count(found.left_out)}; Export has all`]);
  return made;
}

function line(entry) {
  const when = new Date(1000 * entry.at).toLocaleString();
  const sent = entry.kind === "sent";
  const size = sent ? entry.bytes : entry.bytes_sent ?? 0;
  return element("tr", {}, cell(when), cell(sent ? `sent (${entry.method})` : `answer of the ${entry.source}`), cell(count(size)), cell(sent ? to(entry) : why(entry)));
}

function cell(text) {
  return element("td", { textContent: text });
}

function to(entry) {
  return `to ${entry.to}${entry.status === "OK" ? "" : `, ended with ${entry.status}`}`;
}

function why(entry) {
  const compared = entry.score !== undefined && entry.threshold !== undefined
    ? `, ${fixed(entry.score)} ${entry.score >= entry.threshold ? "≥" : "<"} ${fixed(entry.threshold)}` : "";
  const found = entry.found ? `; found: ${entry.found.join(", ")} (${entry.action})` : "";
  const dropped = entry.dropped_turns ? `; ${entry.dropped_turns} turns left out` : "";
  return `${reasons[entry.reason] ?? entry.reason}${compared}${found}${dropped}`;
}

async function save() {
  try {
    const response = await ask(`crayon/ledger?export&since=${since()}`);
    const link = element("a", { href: URL.createObjectURL(await response.blob()), download: "crayon-ledger.jsonl" });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  } catch (error) {
    notice(error.message);
  }
}
