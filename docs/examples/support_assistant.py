"""A bank's support assistant: 16 tickets customise the device, then it sorts new ones. Nothing leaves this machine.

The tickets were written for this example: a message and the queue that it belongs to. The queues repeat, so they are a
closed set. Put tickets of your own in their place; `fits` is False where nothing that they hold beats the plain model.
"""

from __future__ import annotations

import tempfile

from crayon import Crayon

TICKETS = [
    ("how much do I still have on my savings account", "balance"),
    ("tell me what is in my current account", "balance"),
    ("send 200 euros from savings to checking", "transfer"),
    ("please move my bonus to the savings account", "transfer"),
    ("pay the heating bill for me", "pay bill"),
    ("settle my phone bill from checking", "pay bill"),
    ("someone used my card in a shop I have never been to", "report fraud"),
    ("I see a payment in Lima that was not mine", "report fraud"),
    ("block my account, I lost my wallet", "freeze account"),
    ("put a stop on my account until Monday", "freeze account"),
    ("what did I buy with my card last week", "transactions"),
    ("show me the latest payments from my account", "transactions"),
    ("when do I have to pay the electricity bill", "bill due"),
    ("what day is my internet bill due", "bill due"),
    ("I want a new PIN for my card", "pin change"),
    ("change the PIN of my savings account", "pin change"),
]
QUEUES = sorted({queue for _, queue in TICKETS})
NEW = [
    ("is there enough on my account to pay the rent", "balance"),
    ("move fifty dollars over to checking", "transfer"),
    ("take the gas bill and pay it", "pay bill"),
    ("there is a charge from Oslo that I never made", "report fraud"),
    ("lock my account for now", "freeze account"),
    ("by when must the water bill be paid", "bill due"),
]

# A folder that is thrown away; leave customizations_dir out to keep what was customised.
with tempfile.TemporaryDirectory() as folder, Crayon(customizations_dir=folder) as crayon:
    found = crayon.customize("support", TICKETS)
    kinds = [*found.profiles[0].evidence.kinds, *(["blend"] if any(found.profiles[0].weights) else [])]
    print(f"customised from {len(TICKETS)} tickets; changes answers: {found.fits}, by {', '.join(kinds) or 'none'}")
    if found.expectation is not None:
        expected = found.expectation
        print(f"expected ({expected.metric}): {expected.customised:.0f}, plain base {expected.base:.0f}")

    right = {"base": 0, "support": 0}
    for text, queue in NEW:
        plain = crayon.choose(text, QUEUES, blend="base")
        chosen = crayon.choose(text, QUEUES, blend="support")
        right["base"] += plain.text == queue
        right["support"] += chosen.text == queue
        hint = "" if chosen.margin >= 0.2 else "  close: let a person look"
        print(f"{text:<46} before: {plain.text:<15} after: {chosen.text:<15} margin {chosen.margin:.2f}{hint}")
    print(f"right: {right['base']} of {len(NEW)} before, {right['support']} after")
