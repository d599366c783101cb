// The catalogue: what is here, and what can be fetched.

import { json, records } from "./api.js";
import { byId, bytes, element, notice } from "./dom.js";

export async function look() {
  try {
    const { models } = await json("crayon/models");
    byId("catalogue").replaceChildren(...models.map(row));
  } catch (error) {
    notice(error.message);
  }
}

function row(model) {
  const here = element("td", {}, model.present ? "yes" : element("button", { type: "button", className: "quiet", textContent: "Fetch", "aria-label": `Fetch ${model.name}`, onclick: () => fetchIt(model, here) }));
  return element("tr", {},
    element("td", {}, element("div", { textContent: model.name }), element("div", { className: "details", textContent: `${model.about} (${model.quantization}, ${model.licence})` })),
    element("td", { textContent: model.roles.join(", ") }), element("td", { textContent: bytes(model.bytes) }), here);
}

async function fetchIt(model, place) {
  const bar = element("progress", { max: model.bytes, value: 0, "aria-label": `Fetching ${model.name}` });
  place.replaceChildren(bar);
  try {
    for await (const record of records("crayon/pull", { body: { model: model.name } })) if (record.step) bar.value = record.done;
    place.replaceChildren("yes");
  } catch (error) {
    place.replaceChildren(element("span", { className: "wrong", textContent: error.message }));
  }
}
