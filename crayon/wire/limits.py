"""How much one request may carry. Both sides know these numbers, so a client refuses before it sends."""

from __future__ import annotations

# A context of 128k tokens is well under 1 MiB of text; what is larger is a mistake or an attack.
MAX_REQUEST_BYTES = 4 * 2**20
# The largest answer is MAX_TEXTS vectors of 8192 floats, 32 MiB, and a little around them.
MAX_RESPONSE_BYTES = 33 * 2**20

# Headers of a request: tokens, trace ids. gRPC's own soft limit, made a hard one.
MAX_METADATA_BYTES = 8 * 2**10

MAX_MESSAGES = 4096
MAX_TEXTS = 1024
MAX_NAME_CHARS = 256
MAX_REQUEST_ID_CHARS = 64
