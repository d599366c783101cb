"""Secrets in a folded text: keys and tokens that their issuers gave a shape of their own."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from crayon.privacy.finding import SECRET, Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

_FREE = r"(?<![A-Za-z0-9_-])"
_SHAPES = (
    r"(?:AKIA|ASIA|AGPA|AIDA|AROA|AIPA|ANPA|ANVA)[A-Z0-9]{16}(?![A-Za-z0-9])",  # AWS
    r"gh[pousr]_[A-Za-z0-9]{36,255}",  # GitHub
    r"github_pat_[A-Za-z0-9_]{22,255}",
    r"gl(?:pat|dt|rt|ptt|cbt|ft|soat|agent|oas|imt)-[A-Za-z0-9_-]{20,255}",  # GitLab
    r"xox[abeprs]-[A-Za-z0-9-]{10,255}",  # Slack
    r"xapp-[0-9]-[A-Za-z0-9-]{10,255}",
    r"AIza[A-Za-z0-9_-]{35}",  # Google
    r"GOCSPX-[A-Za-z0-9_-]{28}",
    r"ya29\.[A-Za-z0-9_-]{20,2048}",
    r"(?:sk|rk)_(?:live|test)_[A-Za-z0-9]{16,255}",  # Stripe
    r"whsec_[A-Za-z0-9]{24,255}",
    r"hf_[A-Za-z]{30,255}",  # Hugging Face
    r"npm_[A-Za-z0-9]{36}",
    r"pypi-AgE[A-Za-z0-9_-]{40,2048}",
    r"SG\.[A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{43}",  # SendGrid
    r"do[opr]_v1_[a-f0-9]{64}",  # DigitalOcean
    # JSON web tokens; the signature may be empty
    r"eyJ[A-Za-z0-9_-]{8,4096}\.eyJ[A-Za-z0-9_-]{4,16384}\.[A-Za-z0-9_-]{0,4096}",
)
_TOKENS = re.compile(f"{_FREE}(?:{'|'.join(_SHAPES)})")
_OPENAI = re.compile(_FREE + r"sk-[A-Za-z0-9_-]{20,255}")  # OpenAI, Anthropic and others
_HOOK = re.compile(r"hooks\.slack\.com/(?:services|workflows)/[A-Za-z0-9_/-]{20,255}")
_AWS_SECRET = re.compile(
    r"aws.{0,20}?(?:secret|key).{0,20}?[=:]\s{0,3}[\"']?(?P<value>[A-Za-z0-9/+]{40})(?![A-Za-z0-9/+=])", re.IGNORECASE
)
_PEM = re.compile(r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----")
_PEM_END = re.compile(r"-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----")


def find_secrets(text: str) -> Iterator[Finding]:
    """Yield access keys and tokens, JSON web tokens, and private keys from their first line to their last."""
    for found in _TOKENS.finditer(text):
        yield Finding(found.start(), found.end(), SECRET)
    for found in _OPENAI.finditer(text):
        # Words joined by hyphens may start with sk- too.
        if any(char.isdigit() for char in found[0]):
            yield Finding(found.start(), found.end(), SECRET)
    for found in _HOOK.finditer(text):
        yield Finding(found.start(), found.end(), SECRET)
    for found in _AWS_SECRET.finditer(text):
        yield Finding(found.start("value"), found.end("value"), SECRET)
    yield from _private_keys(text)


def _private_keys(text: str) -> Iterator[Finding]:
    place = 0
    while (begin := _PEM.search(text, place)) is not None:
        end = _PEM_END.search(text, begin.end())
        # A key that is cut off is one to its last character.
        place = len(text) if end is None else end.end()
        yield Finding(begin.start(), place, SECRET)
