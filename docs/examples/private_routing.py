"""Routing with privacy: who answers what, and what left the device. The large side is an echo engine in this process,

so you see exactly what a server would have been sent. Put an address in its place to ask a real one.
"""

from __future__ import annotations

from crayon import Crayon, Privacy
from crayon.server.engines.echo import EchoEngine

large = EchoEngine(name="large")  # says back what it hears
QUESTIONS = [
    ("in scope", "How much water should I drink on a hot day?", {}),
    ("out of scope", "Who won the football match in Oslo yesterday?", {}),
    ("an address in it", "Write to ada@example.org that the match in Oslo is off.", {}),
    ("marked private", "My diary says that the match in Oslo was dull.", {"private": True}),
]

for action in ("keep", "redact"):
    print(f"when something sensitive is found: {action}")
    privacy = Privacy(action=action, patterns={"staff": "E[0-9]{5}"})  # a pattern of your own
    with Crayon(server=large, scopes=["healthy-habits"], privacy=privacy, hardness=False, max_tokens=16) as crayon:
        for label, question, options in QUESTIONS:
            answer = crayon.ask(question, **options)
            found = ", ".join(answer.route.privacy.found) if answer.route.privacy else "nothing"
            said = answer.text.strip().splitlines()[0] if answer.route.source == "server" else "..."
            print(f"  {label:<16} {answer.route.source:<6} {answer.route.reason:<12} found: {found:<7} {said}")

large.close()
