"""The page at `/`: static files of the package, under a policy that lets it load and ask nothing else."""

from __future__ import annotations

import functools
from importlib import resources
from typing import TYPE_CHECKING

from starlette.exceptions import HTTPException
from starlette.responses import Response

if TYPE_CHECKING:
    from starlette.requests import Request

INDEX = "index.html"
KINDS = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}
# Whatever an answer makes the page show, it can reach nobody but this gateway, and run nothing but our own files.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; "
    "trusted-types crayon"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-cache",
}


async def page_file(request: Request) -> Response:
    """Return one of the page's files; `/` is its HTML."""
    name = request.path_params.get("name", INDEX)
    files = page_files()
    if name not in files:
        raise HTTPException(404)
    return Response(files[name], headers=HEADERS, media_type=KINDS[name[name.rindex(".") :]])


@functools.cache
def page_files() -> dict[str, bytes]:
    """Return the page's files by name."""
    folder = resources.files("crayon.gateway.page")
    return {
        file.name: file.read_bytes()
        for file in folder.iterdir()
        if file.is_file() and any(file.name.endswith(kind) for kind in KINDS)
    }
