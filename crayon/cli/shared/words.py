"""Errors in the words of the place: what the SDK calls a keyword is an option here."""

from __future__ import annotations

# What the SDK's errors say, and what it is called on the command line.
_WORDS = (
    ("pass server='host:port'", "give --server host:port"),
    ("pass device=...", "give --device MODEL"),
    ("neither a device model nor a server is given; pass one", "neither --device nor --server is given"),
    ("neither a device model nor a server is configured", "neither --device nor --server is given"),
    ("no device model is configured", "there is no model for the device (--device MODEL)"),
    ("pass a device model", "give --device MODEL"),
    ("needs a device model; pass one", "needs a device model; give --device MODEL"),
    ("pass calibration=False to do without", "set calibration = false (`crayon config`) to do without"),
    ("pass a string or at least one user message", "type a question"),
    ("open the model with pools=,", "set device.pools (`crayon config`);"),
    ("load it, or make a new client, after forking", "start it again"),
)


def in_words_of_the_place(text: str) -> str:
    """Return an error's message with options in place of the SDK's keywords."""
    for sdk, here in _WORDS:
        text = text.replace(sdk, here)
    return text
