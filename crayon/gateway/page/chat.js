// The chat: what was said is kept in this browser, and sent nowhere but to this gateway.

import { chunks } from "./api.js";
import { byId, copy, count, element, fixed, notice, rendered } from "./dom.js";

const KEPT = "crayon.chat";
const MOST = 2_000_000; // characters kept in this browser

const state = { messages: [], model: null, reasons: {}, running: null };

const list = () => byId("messages");

export function begin(reasons, models) {
  state.reasons = reasons;
  try {
    const kept = JSON.parse(localStorage.getItem(KEPT) ?? "{}");
    state.messages = Array.isArray(kept.messages) ? kept.messages : [];
    state.model = kept.model ?? null;
  } catch {
    state.messages = [];
  }
  showModels(models);
  show();
  byId("composer").addEventListener("submit", (event) => { event.preventDefault(); send(); });
  byId("question").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); send(); }
  });
  byId("stop").addEventListener("click", () => state.running?.abort());
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") state.running?.abort(); });
  byId("model").addEventListener("change", (event) => { state.model = event.target.value; keep(); });
  byId("new").addEventListener("click", () => { state.running?.abort(); state.messages = []; keep(); show(); byId("question").focus(); });
}

export function showModels(models) {
  const select = byId("model");
  const names = models.map((model) => model.id);
  const chosen = names.includes(state.model) ? state.model : names[0];
  select.replaceChildren(...models.map((model) => element("option", { value: model.id, textContent: called(model.id) })));
  select.value = chosen;
  state.model = chosen;
}

function called(id) {
  if (id === "crayon") return "whoever suits (the router)";
  if (id === "crayon/device") return "the device";
  if (id === "crayon/server") return "the server";
  return id.replace("crayon/", "customised: ");
}

function keep() {
  let kept = state.messages.filter((message) => !message.pending);
  let text = JSON.stringify({ model: state.model, messages: kept });
  while (text.length > MOST && kept.length > 2) {
    kept = kept.slice(2);
    text = JSON.stringify({ model: state.model, messages: kept });
  }
  try { localStorage.setItem(KEPT, text); } catch { notice("This browser keeps no more: the chat is lost when the page is closed."); }
}

async function send() {
  const field = byId("question");
  const text = field.value.trim();
  if (!text || state.running) return;
  field.value = "";
  state.messages.push({ role: "user", content: text });
  await answer(byId("model").value);
}

/** Have the conversation so far answered, and show it as it comes. */
async function answer(model) {
  const asked = state.messages.filter((message) => !message.failed).map(({ role, content }) => ({ role, content }));
  const message = { role: "assistant", content: "", pending: true, model };
  state.messages.push(message);
  keep();
  show();
  const controller = new AbortController();
  state.running = controller;
  byId("stop").hidden = false;
  byId("send").hidden = true;
  try {
    const crayon = byId("private").checked ? { private: true } : {};
    for await (const chunk of chunks({ model, messages: asked, crayon }, controller.signal)) {
      const choice = chunk.choices?.[0];
      if (choice?.delta?.content) { message.content += choice.delta.content; redraw(message); }
      if (choice?.finish_reason) message.finish = choice.finish_reason;
      if (chunk.crayon) message.report = chunk.crayon;
      if (chunk.usage) message.usage = chunk.usage;
    }
  } catch (error) {
    if (error.name === "AbortError") message.stopped = true;
    else { message.failed = true; message.error = error.message; }
  }
  delete message.pending;
  state.running = null;
  byId("stop").hidden = true;
  byId("send").hidden = false;
  if (message.stopped && !message.content) message.failed = true;
  keep();
  show();
}

/** Ask again from a message on: what came after it goes. */
function again(index, model) {
  if (state.running) return;
  state.messages = state.messages.slice(0, index);
  answer(model);
}

function edit(index) {
  if (state.running) return;
  byId("question").value = state.messages[index].content;
  state.messages = state.messages.slice(0, index);
  keep();
  show();
  byId("question").focus();
}

function show() {
  list().replaceChildren(...state.messages.map(item));
  list().scrollTop = list().scrollHeight;
}

function redraw(message) {
  const place = list().lastElementChild;
  const low = list().scrollHeight - list().scrollTop - list().clientHeight < 80;
  rendered(place.querySelector(".text"), message.content);
  if (low) list().scrollTop = list().scrollHeight;
}

function item(message, index) {
  const text = element("div", { className: "text" });
  const made = element("div", { className: `message ${message.role === "user" ? "user" : "assistant"}` },
    element("span", { className: "hidden", textContent: message.role === "user" ? "You: " : "Answer: " }), text);
  if (message.role === "user") {
    text.textContent = message.content;
    made.append(element("div", { className: "actions" }, button("Edit", () => edit(index))));
    return made;
  }
  rendered(text, message.content);
  if (message.pending) text.setAttribute("aria-busy", "true");
  if (message.error) made.append(element("p", { className: "wrong", textContent: message.error }));
  if (message.stopped) made.append(element("p", { className: "details", textContent: "You stopped it here." }));
  if (message.finish === "length") made.append(element("p", { className: "details", textContent: "It was cut: it has as many tokens as it may have." }));
  if (message.report) made.append(...chip(message));
  if (!message.pending) made.append(actions(message, index));
  return made;
}

function button(text, press) {
  return element("button", { type: "button", textContent: text, onclick: press });
}

function actions(message, index) {
  const made = element("div", { className: "actions" }, button("Ask again", () => again(index, byId("model").value)));
  const other = otherSide(message);
  if (other) made.append(button(`Ask the ${other.split("/")[1]}`, () => again(index, other)));
  if (message.content) made.append(element("button", { type: "button", textContent: "Copy", onclick: (event) => copy(event.currentTarget, message.content) }));
  return made;
}

function otherSide(message) {
  const source = message.report?.source;
  if (!source) return null;
  const name = source === "device" ? "crayon/server" : "crayon/device";
  return [...byId("model").options].some((option) => option.value === name) ? name : null;
}

/** Say which side answered, why, how fast, and what left; and all there is to know behind a button. */
function chip(message) {
  const report = message.report;
  const why = state.reasons[report.reason] ?? report.reason;
  const compared = report.score !== null && report.threshold !== null
    ? ` (${fixed(report.score)} ${report.score >= report.threshold ? "≥" : "<"} ${fixed(report.threshold)})` : "";
  const left = report.bytes_sent ? `${count(report.bytes_sent)} bytes left` : "nothing left";
  const details = element("dl", { className: "details", hidden: true });
  const facts = [
    ["why", why + compared], ["scope", report.scope], ["customisation", report.customization && `${report.customization}, ${report.profile}`],
    ["evidence", report.evidence?.join(", ")], ["model", report.model], ["server", report.bytes_sent ? report.server : null],
    ["likely right", report.probability === null ? null : `${Math.round(100 * report.probability)} %`],
    ["first token", `${Math.round(report.ttft_ms)} ms`], ["in all", `${Math.round(report.total_ms)} ms, ${count(message.usage?.completion_tokens ?? 0)} tokens`],
    ["found in it", report.privacy && `${report.privacy.found.join(", ")}: ${report.privacy.action}`],
    ["failed before", report.fallback_from && `${report.fallback_from}: ${report.fallback_error}`],
    ["left this device", left],
  ];
  for (const [label, value] of facts) if (value) details.append(element("dt", { textContent: label }), element("dd", { textContent: value }));
  const toggle = element("button", {
    type: "button", className: `chip ${report.source}`, "aria-expanded": "false",
    onclick: () => { details.hidden = !details.hidden; toggle.setAttribute("aria-expanded", String(!details.hidden)); },
  }, element("b", { textContent: report.source }), element("span", { textContent: why + compared }),
  element("span", { textContent: `${(report.ttft_ms / 1000).toFixed(2)} s to the first token` }),
  report.tokens_per_s ? element("span", { textContent: `${Math.round(report.tokens_per_s)} tokens/s` }) : null,
  element("span", { textContent: left }));
  return [toggle, details];
}
