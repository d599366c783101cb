"""Secrets in a folded text: keys and tokens that their issuers gave a shape of their own."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from crayon.privacy.finding import SECRET, Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

_FREE = r"(?<![A-Za-z0-9_-])"
# A shape that nothing else has may follow a name, as in MY_TOKEN_ghp_...
_NO_WORD = r"(?<![A-Za-z0-9])"
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
    r"(?:hf|api_org)_[A-Za-z0-9]{30,255}",  # Hugging Face
    r"npm_[A-Za-z0-9]{36}",
    r"pypi-AgE[A-Za-z0-9_-]{40,2048}",
    r"SG\.[A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{43}",  # SendGrid
    r"do[opr]_v1_[a-f0-9]{64}",  # DigitalOcean
    r"(?:gsk|fw|r8|sbp|sntry[su]|csk|tvly|pcsk|lsv2_(?:pt|sk))[_-](?=[A-Za-z0-9_-]{0,40}[0-9])[A-Za-z0-9_=-]{24,255}",
    r"(?:xai|nvapi|pplx|tgp_v1|jina|voyage)[_-](?=[A-Za-z0-9_-]{0,40}[0-9])[A-Za-z0-9_-]{36,255}",
    r"AGE-SECRET-KEY-1[A-Z0-9]{50,70}",
    r"hv[sbr]\.[A-Za-z0-9_-]{24,400}",  # Vault
    r"shp(?:at|ss|ca|pa|tka)_[A-Fa-f0-9]{32}",  # Shopify
    r"sq0[a-z]{3}-[A-Za-z0-9_-]{22,60}",  # Square
    r"dapi[a-f0-9]{32}(?:-[0-9])?",  # Databricks
    r"dckr_(?:pat|oat)_[A-Za-z0-9_-]{27,64}",  # Docker
    r"(?:pul|pnu)-[a-f0-9]{40}",  # Pulumi
    r"gl(?:sa|c)_[A-Za-z0-9_=]{32,400}",  # Grafana
    r"NR(?:AK|JS|II)-[A-Za-z0-9]{19,40}",  # New Relic
    r"PMAK-[a-f0-9]{24}-[a-f0-9]{34}",  # Postman
    r"rubygems_[a-f0-9]{48}",
    r"sb_(?:secret|publishable)_[A-Za-z0-9_-]{20,80}",  # Supabase
    r"pscale_(?:tkn|pw|oauth)_[A-Za-z0-9_.-]{32,64}",  # PlanetScale
    r"fm[12]r?_[A-Za-z0-9+/]{60,4096}={0,3}",  # Fly
    r"xkeysib-[a-f0-9]{64}-[A-Za-z0-9]{16}",  # Brevo
    r"key-[a-f0-9]{32}",  # Mailgun
    r"[a-f0-9]{32}-us[0-9]{1,2}(?![0-9])",  # Mailchimp
    r"figd_[A-Za-z0-9_-]{36,64}",  # Figma
    r"(?:lin_api|lin_oauth)_[A-Za-z0-9]{32,64}",  # Linear
    r"(?:ntn|secret)_[A-Za-z0-9]{40,60}",  # Notion
    r"AT(?:ATT|CTT)3[A-Za-z0-9_=-]{60,400}",  # Atlassian
    r"[A-Za-z0-9]{14}\.atlasv1\.[A-Za-z0-9_=-]{60,80}",  # Terraform
    r"[MNO][A-Za-z0-9_-]{23,27}\.[A-Za-z0-9_-]{6}\.[A-Za-z0-9_-]{27,45}",  # Discord
    r"[0-9]{8,10}:AA[A-Za-z0-9_-]{33}",  # Telegram
    r"(?:SK|AC)[a-f0-9]{32}(?![A-Za-z0-9])",  # Twilio
    r"1//0[A-Za-z0-9_-]{38,120}",  # Google
    r"(?:AccountKey|SharedAccessKey)=[A-Za-z0-9+/]{40,88}={0,2}",  # Azure
    r"[A-Za-z0-9_~.]{3}8Q~[A-Za-z0-9_~.-]{31,34}",
    r"ABSK[A-Za-z0-9+/]{100,200}={0,2}",  # Bedrock
    r"vercel_blob_rw_[A-Za-z0-9_]{30,80}",
    r"EAA[A-Za-z0-9]{80,300}",  # Meta
    r"LTAI[A-Za-z0-9]{16,26}",  # Alibaba
    r"AKID[A-Za-z0-9]{32}",  # Tencent
    r"ph[cxs]_[A-Za-z0-9]{40,60}",  # PostHog
    r"ops_eyJ[A-Za-z0-9_=-]{40,4096}",  # 1Password
    r"dp\.(?:st|pt|ct|sa|said|scim|audit)\.(?:[a-z0-9_-]{2,35}\.)?[A-Za-z0-9]{40,44}",  # Doppler
    r"re_(?=[A-Za-z0-9_]{0,30}[0-9])[A-Za-z0-9]{6,10}_[A-Za-z0-9]{20,28}",  # Resend
    r"tskey-(?:auth|api|client|scim|webhook)-[A-Za-z0-9]{8,32}-[A-Za-z0-9]{20,64}",  # Tailscale
    r"fc-[a-f0-9]{32}(?![A-Za-z0-9])",  # Firecrawl
    r"cf(?:ut|at|k)_[A-Za-z0-9]{36,64}",  # Cloudflare
    r"v1\.0-[a-f0-9]{24}-[a-f0-9]{100,300}",
    # JSON web tokens; encrypted ones have five parts, of which the second may be empty, and of three the signature may
    r"eyJ[A-Za-z0-9_-]{8,4096}\.[A-Za-z0-9_-]{0,2048}\.[A-Za-z0-9_-]{3,64}\.[A-Za-z0-9_-]{1,16384}\.[A-Za-z0-9_-]{3,64}",
    r"eyJ[A-Za-z0-9_-]{8,4096}\.eyJ[A-Za-z0-9_-]{4,16384}\.[A-Za-z0-9_-]{0,4096}",
)
_TOKENS = re.compile(f"{_NO_WORD}(?:{'|'.join(_SHAPES)})")
# Somebody's password in an address, and WireGuard's key by its name.
_PASSWORD = re.compile(
    r"\b[a-z][a-z0-9+.-]{1,20}://[^\s/:@?#]{0,64}:(?P<value>[^\s/@]{3,128})@(?=[\w\[])", re.IGNORECASE
)
# What documentation writes in its place.
_NO_PASSWORD = re.compile(r"pass(?:word|wd)?|pwd?|secret|x+|\*+|\.+|[$%<{\[].*", re.IGNORECASE)
_NAMED = re.compile(r"(?:PrivateKey|PresharedKey)\s{0,3}=\s{0,3}(?P<value>[A-Za-z0-9+/]{43}=)")
_WRAP = re.compile(r"(?<=[A-Za-z0-9_-])\\?[ \t]{0,3}\n[> \t#]{0,8}(?=[A-Za-z0-9_-])")
_OPENAI = re.compile(_FREE + r"sk-[A-Za-z0-9_-]{20,255}")  # OpenAI, Anthropic and others
_HOOK = re.compile(
    r"hooks\.slack\.com/(?:services|workflows)/[A-Za-z0-9_/-]{20,255}"
    r"|discord(?:app)?\.com/api/webhooks/[0-9]{16,20}/[A-Za-z0-9_-]{40,100}"
)
_AWS_SECRET = re.compile(
    r"aws.{0,20}?(?:secret|key).{0,20}?[=:]\s{0,3}[\"']?(?P<value>[A-Za-z0-9/+]{40})(?![A-Za-z0-9/+=])", re.IGNORECASE
)
_PEM = re.compile(
    r"-{4,5} ?BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)? ?-{4,5}|PuTTY-User-Key-File-[0-9]:", re.IGNORECASE
)
_PEM_END = re.compile(
    r"-{4,5} ?END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)? ?-{4,5}|Private-MAC: [0-9a-f]{1,128}", re.IGNORECASE
)


def find_secrets(text: str) -> Iterator[Finding]:
    """Yield access keys and tokens, JSON web tokens, and private keys from their first line to their last."""
    yield from _tokens(text)
    yield from _wrapped(text)
    for pattern in (_PASSWORD, _NAMED):
        for found in pattern.finditer(text):
            if pattern is _PASSWORD and _NO_PASSWORD.fullmatch(found["value"]):
                continue
            yield Finding(found.start("value"), found.end("value"), SECRET)
    for found in _HOOK.finditer(text):
        yield Finding(found.start(), found.end(), SECRET)
    for found in _AWS_SECRET.finditer(text):
        yield Finding(found.start("value"), found.end("value"), SECRET)
    yield from _private_keys(text)


def _tokens(text: str) -> Iterator[Finding]:
    for found in _TOKENS.finditer(text):
        yield Finding(found.start(), found.end(), SECRET)
    for found in _OPENAI.finditer(text):
        # Words joined by hyphens may start with sk- too.
        if any(char.isdigit() for char in found[0]):
            yield Finding(found.start(), found.end(), SECRET)


def _wrapped(text: str) -> Iterator[Finding]:
    """Yield tokens that go on in the next line."""
    cuts = [(wrap.start(), wrap.end()) for wrap in _WRAP.finditer(text)]
    if not cuts:
        return
    places: list[int] = []
    begin = 0
    for start, end in cuts:
        places += range(begin, start)
        begin = end
    places += range(begin, len(text))
    joined = "".join(text[place] for place in places)
    for found in _tokens(joined):
        start, end = places[found.start], places[found.end - 1] + 1
        if end - start > found.end - found.start:
            yield Finding(start, end, SECRET)


def _private_keys(text: str) -> Iterator[Finding]:
    place = 0
    while (begin := _PEM.search(text, place)) is not None:
        end = _PEM_END.search(text, begin.end())
        # A key that is cut off is one to its last character.
        place = len(text) if end is None else end.end()
        yield Finding(begin.start(), place, SECRET)
