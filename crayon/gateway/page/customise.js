// Samples in, evidence out: what each kind gives on the user's own samples, before and after.

import { records } from "./api.js";
import { byId, element } from "./dom.js";
import { parsed } from "./samples.js";

export function begin(changed) {
  byId("file").addEventListener("change", async (event) => {
    const [file] = event.target.files;
    if (file) take(file);
  });
  const field = byId("samples");
  field.addEventListener("dragover", (event) => event.preventDefault());
  field.addEventListener("drop", (event) => {
    const [file] = event.dataTransfer.files;
    if (file) { event.preventDefault(); take(file); }
  });
  byId("samples-form").addEventListener("submit", (event) => { event.preventDefault(); make(changed); });
}

async function take(file) {
  if (file.size > 2_000_000) { tell([["wrong", "The file is larger than 2 MB; a thousand samples are the most that are taken."]]); return; }
  byId("samples").value = await file.text();
  if (!byId("name").value) byId("name").value = file.name.replace(/\.[^.]*$/, "").replace(/[^A-Za-z0-9._-]+/g, "-").slice(0, 64);
}

function tell(lines) {
  byId("made").replaceChildren(...lines.map(([kind, text]) => element("p", { className: kind, textContent: text })));
}

async function make(changed) {
  const name = byId("name").value.trim();
  byId("make").disabled = true;
  byId("progress").hidden = false;
  byId("bar").removeAttribute("value");
  tell([]);
  try {
    const samples = parsed(byId("samples").value);
    for await (const record of records("crayon/customizations", { body: { name, samples, replace: byId("replace").checked } })) {
      if (record.step) {
        byId("step").textContent = record.step;
        if (record.of) { byId("bar").max = record.of; byId("bar").value = record.done; }
      }
      if (record.customization) { tell(words(record.customization)); await changed(); }
    }
  } catch (error) {
    tell([["wrong", error.message]]);
  }
  byId("progress").hidden = true;
  byId("make").disabled = false;
}

function words(made) {
  const lines = [["", `${made.name}: ${made.samples} samples, ${made.answered} with an answer, for ${made.base}.`]];
  for (const profile of made.profiles) {
    const kinds = [
      profile.answers.length ? `answers: one of ${profile.answers.length} (${profile.answers.slice(0, 6).join(", ")})` : null,
      profile.classes ? `classes: ${profile.classes} samples tell which answer a question is like` : null,
      profile.examples ? `examples: ${profile.examples} samples shown before each question` : null,
      Object.keys(profile.members).length ? `blend: ${Object.entries(profile.members).map(([member, weight]) => `${member} ${weight.toFixed(2)}`).join(", ")}` : null,
    ].filter(Boolean);
    const task = made.profiles.length > 1 ? `${profile.name}: ` : "";
    lines.push(["", kinds.length ? `${task}${kinds.join("; ")}.` : `${task}nothing that the samples hold beats the plain model.`]);
  }
  const found = made.expectation;
  if (found) {
    const points = found.metric === "accuracy";
    const show = (value) => (points ? `${Math.round(value)} % right` : `${value.toFixed(2)} nats a token`);
    const between = found.low === null || found.high === null ? "" : `, 95 % interval of the difference ${signed(found.low, points)} to ${signed(found.high, points)}`;
    lines.push(["", `On your samples, each answered by the others: before ${show(found.base)}, after ${show(found.customised)}${between}.`]);
  }
  if (made.note) lines.push(["details", made.note]);
  lines.push(["", made.changes ? `Use it: choose "customised: ${made.name}" in the chat.` : "It changes no answer: give more samples, a few for each answer."]);
  return lines;
}

function signed(value, points) {
  return `${value < 0 ? "" : "+"}${points ? Math.round(value) : value.toFixed(2)}`;
}
