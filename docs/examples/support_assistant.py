"""A support assistant: 16 tickets customise the device, then it sorts new ones. Nothing leaves this machine.

The tickets were written for this example: a message and the queue that it belongs to.
"""

from __future__ import annotations

import tempfile

from crayon import Crayon

TICKETS = [
    ("I was charged twice for my subscription in May", "billing"),
    ("Please send me the invoice for last month", "billing"),
    ("Why did the price of my plan go up", "billing"),
    ("My card was declined but the money is gone", "billing"),
    ("The app closes as soon as I open a photo", "bug"),
    ("Search finds nothing since the update", "bug"),
    ("The export button does nothing when I press it", "bug"),
    ("Dates are shown in the wrong year", "bug"),
    ("I cannot log in with my new phone", "account"),
    ("How do I change the e-mail address of my account", "account"),
    ("The code for logging in never arrives", "account"),
    ("Please delete my account and everything in it", "account"),
    ("Could you add a dark mode", "wish"),
    ("It would be great to sort albums by colour", "wish"),
    ("Please let me share a folder with my team", "wish"),
    ("I wish there were a version for tablets", "wish"),
]
QUEUES = sorted({queue for _, queue in TICKETS})
NEW = [
    ("You took the money for my yearly plan two times", "billing"),
    ("The program crashes when I rotate a picture", "bug"),
    ("I forgot my password and the reset mail does not come", "account"),
    ("A shortcut for the next picture would be nice", "wish"),
]

# A folder that is thrown away; leave customizations_dir out to keep what was customised.
with tempfile.TemporaryDirectory() as folder, Crayon(customizations_dir=folder) as crayon:
    found = crayon.customize("support", TICKETS)
    profile = found.profiles[0]
    names = ", ".join(f"{weight:.2f}" for weight in profile.weights if weight)
    print(f"customised from {len(TICKETS)} tickets; fits the pool: {found.fits}; weights {names or 'none'}")
    if found.expectation is not None:
        expected = found.expectation
        print(f"expected ({expected.metric}): {expected.customised:.0f}, plain base {expected.base:.0f}")

    for text, queue in NEW:
        chosen = crayon.choose(text, QUEUES, blend="support")
        sure = "" if chosen.margin >= 0.2 else ", close: let a person look"
        print(f"{chosen.text:<8} {'right' if chosen.text == queue else 'wrong'}  {text} (margin {chosen.margin:.2f}{sure})")
