"""Routing with privacy: who answers what, and exactly what a server would be sent.

The large side is an engine without a model in this process, so that nothing really leaves it. Put an address in its
place (server="localhost:50051") to ask a real one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from crayon import Crayon, Privacy
from crayon.server.engines.echo import EchoEngine

if TYPE_CHECKING:
    from crayon.engine import GenerateRequest, Stream


class Overheard(EchoEngine):
    """Says back what it hears, and remembers it."""

    heard = ""

    def generate(self, request: GenerateRequest) -> Stream:
        """Note the question that came."""
        self.heard = request.messages[-1].content
        return super().generate(request)


large = Overheard(name="large")
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
            large.heard = "nothing"
            answer = crayon.ask(question, **options)
            print(f"  {label:<16} {answer.route.source:<6} {answer.route.reason:<12} the server heard: {large.heard}")
            if action == "redact" and large.heard not in {"nothing", question}:
                print(f"  {'':<36} and you read: {answer}")

large.close()
