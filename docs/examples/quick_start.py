"""The SDK in a minute: ask, stream, choose, chat, and read where an answer came from. Needs no server."""

from __future__ import annotations

from crayon import Crayon

with Crayon(max_tokens=40) as crayon:  # the model that suits this machine, fetched if it is not here (98 or 491 MB)
    answer = crayon.ask("How can I sleep better?")
    print(answer)
    print(f"-- from the {answer.route.source} ({answer.route.reason}), {answer.tokens_per_s:.0f} tokens/s")

    with crayon.stream("Name three colours.", max_tokens=20) as stream:
        for piece in stream:
            print(piece.text, end="", flush=True)
    print(f"\n-- {stream.completion.usage.completion_tokens} tokens, {stream.completion.finish_reason}")

    chosen = crayon.choose("The pizza came cold and an hour late.", ["praise", "complaint"])
    print(f"{chosen} (margin {chosen.margin:.2f})")

    chat = crayon.chat(system="Answer in one sentence.")
    chat.ask("My cat is called Miso.")
    print(chat.ask("What is my cat called?"))
