"""Everything in one run: customising, routing, what each costs, and one page of it."""

from __future__ import annotations
