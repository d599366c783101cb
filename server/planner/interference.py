"""What a share of the GPU is worth to whom: NanoFlow's table of resource share R to performance P.

A share is defined by the dense operation: beside a kernel that leaves it 40 % of its speed it holds 0.4, and the kernel
holds 0.6. The kernel's own speed there, over its speed alone, is P. Memory and network kernels keep more than their
share, which is what makes overlap pay.

Published (section 4.1.1): R = 0.1, 0.2, 0.8, 0.9 and 1; and P = 0.8 at R = 0.4 for decode attention, from figure 6. A
plan gives these shares only; between them `performance` goes straight. Measured in pairs: the paper assumes, and so
does this, that the table holds where three run.
"""

from __future__ import annotations

from itertools import pairwise

from crayon.server.planner.operations import Class

_PUBLISHED: dict[Class, dict[float, float]] = {
    Class.COMPUTE: {0.0: 0.0, 1.0: 1.0},
    Class.MEMORY: {0.0: 0.0, 0.1: 0.2, 0.2: 0.3, 0.4: 0.8, 0.8: 0.85, 0.9: 0.95, 1.0: 1.0},
    Class.NETWORK: {0.0: 0.0, 0.1: 0.3, 0.2: 0.5, 0.8: 0.9, 0.9: 1.0, 1.0: 1.0},
}
# The shares that a plan may give: published ones only. Network kernels gain nothing above 0.9.
SHARES: dict[Class, tuple[float, ...]] = {
    Class.COMPUTE: tuple(step / 10 for step in range(1, 11)),
    Class.MEMORY: (0.1, 0.2, 0.4, 0.8, 0.9, 1.0),
    Class.NETWORK: (0.1, 0.2, 0.8, 0.9),
}


def performance(resource: Class, share: float) -> float:
    """Return the speed over that of running alone, for a share from 0 to 1."""
    points = sorted(_PUBLISHED[resource].items())
    for (low, slow), (high, fast) in pairwise(points):
        if low <= share <= high:
            return slow + (fast - slow) * (share - low) / (high - low)
    raise ValueError(f"a share is from 0 to 1, not {share}")
