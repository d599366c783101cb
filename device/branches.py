"""Continuations of one prompt as a tree: what several of them begin with is computed once."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


@dataclass(slots=True, eq=False)
class Node:
    """A token of one or more branches.

    Args:
        token: what is computed.
        depth: its place in the continuations, from 0.
        branches: those of its group that it belongs to.
        reads: what its logits are asked for: token to the continuations that go on with it, by number.
    """

    token: int
    depth: int
    branches: list[int]
    reads: dict[int, list[int]] = field(default_factory=dict)


@dataclass(slots=True)
class Group:
    """Branches that are computed together. `nodes` stand after all that come before them in their branches."""

    branches: int
    nodes: list[Node]


def groups(lists: Sequence[Sequence[int]], *, branches: int, cells: int, shared: bool = True) -> Iterator[Group]:
    """Yield what has to be computed to score all tokens after the first of each list.

    Args:
        lists: tokens of the continuations, each at least one.
        branches: most in a group.
        cells: most nodes in a group; a branch alone may have more.
        shared: whether a node may belong to several branches; else each branch has its own.
    """
    # The last token predicts nothing that is wanted. What is the start of another needs no branch of its own: in order,
    # all that begin with a list stand right behind it.
    wanted = sorted({tuple(part[:-1]) for part in lists if len(part) > 1})
    leaves = [part for i, part in enumerate(wanted) if i + 1 == len(wanted) or wanted[i + 1][: len(part)] != part]
    readers: list[list[int]] = [[] for _ in leaves]
    for i, part in enumerate(lists):
        if len(part) > 1:
            readers[bisect_left(leaves, tuple(part[:-1]))].append(i)
    first = 0
    while first < len(leaves):
        group, taken = Group(0, []), 0
        path: list[Node] = []
        for leaf, mine in zip(leaves[first:], readers[first:], strict=True):
            same = _common(path, leaf) if shared else 0
            if taken and (taken == branches or len(group.nodes) + len(leaf) - same > cells):
                break
            for node in path[:same]:
                node.branches.append(taken)
            path = path[:same] + [Node(token, depth, [taken]) for depth, token in enumerate(leaf) if depth >= same]
            group.nodes += path[same:]
            for i in mine:
                for node, token in zip(path, lists[i][1:], strict=False):
                    node.reads.setdefault(token, []).append(i)
            taken += 1
        group.branches = taken
        group.nodes.sort(key=lambda node: node.depth)
        first += taken
        yield group


def _common(path: Sequence[Node], leaf: Sequence[int]) -> int:
    for i, (node, token) in enumerate(zip(path, leaf, strict=False)):
        if node.token != token:
            return i
    return min(len(path), len(leaf))
