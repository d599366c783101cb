// The page's beginning: the gateway's state, the views, the lock.

import { json } from "./api.js";
import * as chat from "./chat.js";
import * as customise from "./customise.js";
import { byId, notice } from "./dom.js";
import * as ledger from "./ledger.js";
import * as models from "./models.js";

const VIEWS = ["chat", "ledger", "customise", "models"];
const SHOWN = { ledger: ledger.look, models: models.look };

function view(name) {
  for (const each of VIEWS) {
    byId(each).hidden = each !== name;
    const button = document.querySelector(`nav [data-view="${each}"]`);
    if (each === name) button.setAttribute("aria-current", "page");
    else button.removeAttribute("aria-current");
  }
  SHOWN[name]?.();
}

function showLock({ locked, held }) {
  const lock = byId("lock");
  lock.setAttribute("aria-pressed", String(locked));
  lock.textContent = locked ? "Nothing leaves: on" : "Nothing leaves: off";
  lock.disabled = held;
  lock.title = held ? "CRAYON_LOCAL_ONLY was set where the gateway was started" : "Keeps every question on this device, whatever else is set, until it is lifted";
}

async function state() {
  for (;;) {
    try {
      const found = await json("crayon/state");
      notice(null);
      return found;
    } catch (error) {
      notice(error.code === "loading" ? "The models are being loaded ..." : error.message);
      if (error.code !== "loading" && error.status !== 0) throw error;
      await new Promise((later) => setTimeout(later, 1000));
    }
  }
}

for (const button of document.querySelectorAll("nav [data-view]")) button.addEventListener("click", () => view(button.dataset.view));
byId("lock").addEventListener("click", async () => {
  try {
    showLock(await json("crayon/lock", { body: { on: byId("lock").getAttribute("aria-pressed") !== "true" } }));
  } catch (error) {
    notice(error.message);
  }
});

const found = await state();
showLock(found);
ledger.begin(found.reasons);
customise.begin(async () => chat.showModels((await json("crayon/state")).models));
chat.begin(found.reasons, found.models);
document.body.dataset.ready = "yes";
byId("question").focus();
