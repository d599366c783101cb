"""The race of servers: Crayon's against its peers, over the wire, on one machine (`crayon bench server`)."""

from __future__ import annotations
