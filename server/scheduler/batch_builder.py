"""Rows for one step: every decoding request's token, then prompts in turn until the budget is used up."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crayon.server.scheduler.prefix_cache import best_source
from crayon.server.steps.request import Kind, Request
from crayon.server.steps.step_plan import KvOp, NanoBatch, Resource, Row

if TYPE_CHECKING:
    from collections.abc import Sequence

    from crayon.server.scheduler.draft import Draft
    from crayon.server.scheduler.prefix_cache import PrefixIndex
    from crayon.server.steps.request import Slot
    from crayon.server.steps.step_plan import Group


class BatchBuilder:
    """Collects rows.

    Args:
        draft: what is decided about the cache.
        groups: those that run.
        budget: most tokens.
        reading: whose prompts and texts are read, in this order.
        index: where prompts may find their beginning.
    """

    def __init__(
        self, draft: Draft, groups: list[Group], budget: int, reading: Sequence[Request], index: PrefixIndex | None
    ) -> None:
        self._draft = draft
        self._index = index
        self._budget = budget
        self._left = budget
        self._outputs = draft.limits.outputs
        self._reading = reading
        self._ends = 0
        """Prompts that come after and may want a row of logits in this step."""
        self._oldest = 0
        """Cells that the oldest answer's prompt still wants: no prompt that is read before it takes them."""
        self._branch_kv: list[KvOp] = []
        self._decode: dict[Group, list[Row]] = {group: [] for group in groups}
        self._prefill: dict[Group, list[Row]] = {group: [] for group in groups}
        self._grown = 0
        self._room = 0
        self._margin = 0

    @property
    def tokens(self) -> int:
        """Tokens of all rows."""
        return self._budget - self._left

    def fill(self) -> None:
        """Add a row for everybody in the groups, as long as there is budget and room in the cache."""
        draft, slots = self._draft, self._draft.slots
        add = {group: rows.append for group, rows in self._decode.items()}
        decoding, row = 0, tuple.__new__
        longer: list[Request] = []
        for request in draft.generating:
            if request.generated:
                decoding += 1
                to = add.get(request.group)
                if to is not None:
                    seq = (request.slots or slots[request.id])[0].seq
                    # As `Row(...)`, which takes twice as long; there is one for every running request.
                    to(row(Row, (request.id, seq, request.computed, 1, 1, None)))
                    if request.pending > 1:
                        longer.append(request)
        taken = sum(map(len, self._decode.values()))
        self._left -= taken
        self._outputs -= taken
        self._grown = taken
        if longer:
            self._lengthen(longer, draft.room - decoding)
        # Those that decode need a cell now, whether their group runs or not, and one in the next step: a prompt that
        # took it would be spilled for it, unless it is the oldest and never is.
        self._room, self._margin = draft.room - decoding - (self._grown - taken), decoding
        self._ends = sum(1 for request in self._reading if request.computed < request.prompt)
        oldest = draft.generating[0] if draft.generating else None
        if oldest is not None and any(request is oldest for request in self._reading):
            self._oldest = oldest.prompt - oldest.computed
        full: set[str] = set()
        for request in self._reading:
            if self._left < 1:
                break
            self._ends -= request.computed < request.prompt
            if request is oldest:
                self._oldest = 0
            # A request that finds no room in the cache holds up the later ones of its client, and no other client's.
            if request.client not in full and not self._prompt(request):
                full.add(request.client)
        draft.settle(self._grown)
        draft.kv.extend(self._branch_kv)

    def _lengthen(self, requests: Sequence[Request], room: int) -> None:
        """Have tokens that are forced computed with those before them, as far as there is budget and room."""
        wanted = {request.id: request.pending for request in requests}
        for rows in self._decode.values():
            for i, row in enumerate(rows):
                if row.request not in wanted:
                    continue
                tokens = min(wanted[row.request], 1 + max(min(self._left, room), 0))
                # Only the last one is followed by a token that nobody knows.
                rows[i] = row._replace(tokens=tokens, logits=int(tokens == wanted[row.request]))
                self._left -= tokens - 1
                self._grown += tokens - 1
                room -= tokens - 1

    def _prompt(self, request: Request) -> bool:
        """Add as much of the request's prompt, or of its branches, as there is budget for; False: the cache is full."""
        draft = self._draft
        slots = draft.slots.get(request.id, request.slots)
        if self._index is not None and request.computed == request.shared and request.id not in draft.shares:
            # More may be there now than when it was admitted.
            source = best_source(draft, self._index, request)
            # What was idle could have been dropped for others and no longer can.
            held = source.tokens if source is not None and source.seq in draft.idle else 0
            if source is not None and held <= self._room - self._margin - self._oldest:
                draft.share(request, slots[0].seq, source)
                self._room -= held
        start = draft.start(request)
        left = request.prompt - start
        if left < 1:
            self._branches(request, slots)
            return True
        wanted = count = min(left, self._left)
        if request.kind is Kind.GENERATE:
            oldest = draft.generating[0] is request
            count = min(count, self._room if oldest else self._room - self._margin - self._oldest)
        fits = count == wanted
        if count == left and self._outputs < 1:
            count -= 1  # its logits have no room in this step
        if count < 1:
            return fits
        ends = int(count == left)
        self._prefill[request.group].append(Row(request.id, slots[0].seq, start, count, ends))
        self._left -= count
        self._outputs -= ends
        if request.kind is Kind.GENERATE:
            self._grown += count
            self._room -= count
        return fits

    def _branches(self, request: Request, slots: list[Slot]) -> None:
        rows = self._prefill[request.group]
        fresh = request.branches_started
        for slot in slots:
            branch = fresh if slot.branch is None else slot.branch
            if branch >= len(request.branches):
                continue
            left = request.branches[branch] - slot.computed
            count, logits = min(left, self._left), 0
            if request.kind is Kind.SCORE:
                logits = count = min(count, self._outputs - self._ends)
            if count < 1:
                return
            if slot.branch is None:
                fresh += 1
                # Not counted in the draft: the cells are set aside for the request.
                self._branch_kv.append(KvOp(slot.seq, slots[0].seq, request.prompt))
            rows.append(Row(request.id, slot.seq, request.prompt + slot.computed, count, logits, branch))
            self._left -= count
            self._outputs -= logits
            if count < left:
                return

    def nano(self) -> tuple[NanoBatch, ...]:
        """Return the nano-batches, group after group, decodes before prefills."""
        batches: list[NanoBatch] = []
        for group, decodes in self._decode.items():
            blend, encode = group
            prefill = Resource.ENCODE if encode else Resource.PREFILL
            for resource, rows in ((Resource.DECODE, decodes), (prefill, self._prefill[group])):
                if rows:
                    batches.append(NanoBatch(blend, resource, tuple(rows)))
        return tuple(batches)
