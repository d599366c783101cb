"""How good customised answers are on data that nothing was trained on, beside what else one could do."""

from __future__ import annotations
