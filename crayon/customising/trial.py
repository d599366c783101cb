"""A profile on trial: what the model says of its samples under each kind of prompt, and what goes live for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from crayon.completion import Blend
from crayon.customising.choices import RULES, choice_values, place_among, rule_for
from crayon.customising.evidence import NONE, Evidence
from crayon.customising.examples import shown_to
from crayon.customising.expectation import CaseOutcome
from crayon.customising.sample import by_answer, closed_answers
from crayon.customising.support import place_of, turns_of
from crayon.customising.weighing import MODEL, PROMPTS, Scored, left_out_classes, needs_end, weigh
from crayon.errors import EngineError, PromptTooLongError
from crayon.messages import Message

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from crayon.customising.choices import Rule
    from crayon.customising.device_calls import DeviceCalls
    from crayon.customising.sample import Sample
    from crayon.customising.weighing import Prompt

Kind = Literal["closed", "choice", "free"]
# What examples have to gain over the plain base where no classifier helps them: points of a choice, nats a token of a
# free answer. Less is chance.
MIN_POINTS, MIN_NATS = 10.0, 0.05
# So many points above who always gives the commonest answer, the plain base knows a closed set: then it chooses among
# the answers where nothing does that better. Else it would say one by chance, and sound as if it knew.
MIN_ABOVE = 20.0
# Prompts that show examples.
SHOWING: tuple[Prompt, ...] = ("examples", "reader")


@dataclass(frozen=True, slots=True)
class TrialScoring:
    """One scoring: the texts of a case, a sample, under a kind of prompt."""

    prompt: Prompt
    case: int
    turns: tuple[int, ...] = ()
    weights: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Values:
    """What the model says of a case: for each rule one number a text, and the mean log-probability of the first."""

    by_rule: dict[Rule, NDArray[np.float64]]
    mean: float


@dataclass(frozen=True, slots=True)
class TrialResult:
    """What goes live for a profile.

    Args:
        evidence: what answers beside, or in place of, the blend.
        prompt: whose prompt it is: "blend" keeps the profile's weights, "reader" takes the reader's, the others none.
        outcomes: what each case is worth under the plain base, and under what goes live.
        harmed: what the blend alone is worth, where that is less than the plain base; else None.
    """

    evidence: Evidence
    prompt: Prompt
    outcomes: tuple[CaseOutcome, ...]
    harmed: float | None = None


@dataclass(slots=True)
class Trial:
    """The trial of one profile: `jobs` to be scored, then `verdict`.

    Args:
        part: number of the profile.
        samples: all of the user's.
        numbers: those of the profile that have an answer.
        cases: those that are scored, in the order in which `jobs` has them.
        vectors: embeddings of all samples, (n, D).
        examples: the samples that a prompt would show; () tries none.
        weights: for each case the blend's weights by the other samples; None or zeros where no member fits.
        pool_id: of the weights.
        reader: weights of the pool's reader, a member that was taught to do what examples show; () where there is none.
        own: whether the pool's gate says that this is a member's own task, so that the blend is that member alone.
    """

    part: int
    samples: Sequence[Sample]
    numbers: Sequence[int]
    cases: Sequence[int]
    vectors: NDArray[np.float32]
    examples: tuple[int, ...]
    weights: Sequence[tuple[float, ...] | None]
    pool_id: str
    reader: tuple[float, ...] = ()
    own: bool = False
    answers: tuple[str, ...] = field(init=False)
    kind: Kind = field(init=False)
    jobs: tuple[TrialScoring, ...] = field(init=False)
    _values: dict[Prompt, dict[int, Values]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        answered = [self.samples[i] for i in self.numbers]
        self.answers = closed_answers(answered)
        each = bool(answered) and all(sample.choices for sample in answered)
        self.kind = "closed" if self.answers else "choice" if each else "free"
        jobs = [TrialScoring("base", case) for case in self.cases]
        for case, weights in zip(self.cases, self.weights, strict=True):
            if weights is not None and any(weights):
                jobs.append(TrialScoring("blend", case, weights=weights))
        dealt = by_answer(self.samples, self.cases)
        for case, turns in zip(dealt, shown_to(dealt, self.examples), strict=True):
            # Under the reader examples did better than under the plain base, or as well, for 11 of 12 users of train
            # tasks: trying both would double what a check costs.
            if turns and self.reader:
                jobs.append(TrialScoring("reader", case, turns=turns, weights=self.reader))
            elif turns:
                jobs.append(TrialScoring("examples", case, turns=turns))
        # The plain base first; and what one prompt and one blend have computed serves the next.
        self.jobs = tuple(sorted(jobs, key=lambda job: (PROMPTS.index(job.prompt), job.weights, job.turns)))

    @property
    def scored(self) -> bool:
        """Whether any case was scored."""
        return bool(self._values.get("base"))

    def texts(self, case: int) -> tuple[str, ...]:
        """Return what is scored of a case: its choices, or its answer."""
        sample = self.samples[case]
        return self.answers or (sample.choices if self.kind == "choice" else (sample.answer or "",))

    def score(self, calls: DeviceCalls, job: TrialScoring, system: Message | None) -> None:
        """Score a job; one that is too long for the context is left out."""
        turns = turns_of([self.samples[i] for i in job.turns])
        asked = Message("user", self.samples[job.case].question)
        messages = (*((system,) if system else ()), *turns, asked)
        blend = Blend(self.pool_id, job.weights) if job.weights else None
        try:
            scores = calls.score(messages, self.texts(job.case), blend, ended=True).scores
        except PromptTooLongError:
            return
        if not all(len(score.token_logprobs) > 1 for score in scores):
            raise EngineError("the engine gave no score for a text and its end")
        by_rule = {rule: choice_values(scores, rule) for rule in RULES}
        self._values.setdefault(job.prompt, {})[job.case] = Values(by_rule, scores[0].mean)

    def verdict(self) -> TrialResult:
        """Return what goes live."""
        base = self._values.get("base", {})
        cases = [case for case in self.cases if case in base]
        if not cases or len(self.numbers) < 2:
            return TrialResult(NONE, prompt="base", outcomes=())
        # Where the other samples give no weights the blend is the base; other prompts must fit every case.
        if "blend" in self._values:
            self._values["blend"] = base | self._values["blend"]
        tried = [prompt for prompt in PROMPTS if all(case in self._values.get(prompt, {}) for case in cases)]
        if self.kind != "closed":
            return self._open(cases, tried)
        labels = np.array([place_of(self.samples[i], self.answers) for i in self.numbers], np.intp)
        # An answer that no other sample has cannot be found by the others. Where the user names answers that no sample
        # has, such a case is what a question with one of these will be; and about as often (Good and Turing).
        counts = np.bincount(labels, minlength=len(self.answers))
        again = (counts[labels] > 1) | (not counts.all())
        places = [self.numbers.index(case) for case in cases]
        if not again[places].any():
            return self._open(cases, [prompt for prompt in tried if prompt not in SHOWING])
        return self._closed(cases, tried, labels, again[places])

    def _closed(
        self, cases: Sequence[int], tried: Sequence[Prompt], labels: NDArray[np.intp], judged: NDArray[np.bool_]
    ) -> TrialResult:
        scored = [
            Scored(
                prompt=prompt,
                whole=np.stack([self._values[prompt][case].by_rule["whole"] for case in cases]),
                ended=np.stack([self._values[prompt][case].by_rule["ended"] for case in cases]),
                own=self.own and prompt == "blend",
            )
            for prompt in tried
        ]
        classes = left_out_classes(self.vectors[list(self.numbers)], labels.tolist(), len(self.answers))
        places = [self.numbers.index(case) for case in cases]
        ended = needs_end(self.answers)
        done = weigh(scored, labels[places], judged, classes[places], ended=ended)
        outcomes = tuple(
            CaseOutcome(self.part, 100.0 * plain, 100.0 * now)
            for plain, now in zip(done.base[judged].tolist(), done.right[judged].tolist(), strict=True)
        )
        blend = done.tried.get("blend")
        worse = blend is not None and blend < int(done.base[judged].sum())
        harmed = 100.0 * blend / len(outcomes) if blend is not None and worse else None
        if done.prompt is None:
            right, answers = done.base[judged], np.bincount(labels[places][judged])
            sure = 100.0 * (right.sum() - answers.max()) >= MIN_ABOVE * len(right)
            alone = Evidence(answers=self.answers, model=MODEL, rule=done.rule) if sure else NONE
            return TrialResult(alone, prompt="base", outcomes=outcomes, harmed=harmed)
        if done.taught:
            # A member knows answers that the samples do not show: it is held to these only if they are all.
            known = Evidence(answers=self.answers, rule="ended") if self._all_answers(labels) else NONE
            return TrialResult(known, prompt=done.prompt, outcomes=outcomes, harmed=harmed)
        evidence = Evidence(
            examples=self.examples if done.prompt in SHOWING else (),
            answers=self.answers,
            labelled=tuple(self.numbers) if done.classes else (),
            model=MODEL,
            bias=done.bias,
            classes=done.classes,
            rule="ended" if ended else "whole",
        )
        return TrialResult(evidence, prompt=done.prompt, outcomes=outcomes, harmed=harmed)

    def _all_answers(self, labels: NDArray[np.intp]) -> bool:
        """Return whether the answers are all that there are: the user named them, or none of them came just once.

        The share that came once is about the chance that the next answer is a new one (Good and Turing).
        """
        named = any(self.samples[i].choices for i in self.numbers)
        return named or bool((np.bincount(labels) > 1).all())

    def _open(self, cases: Sequence[int], tried: Sequence[Prompt]) -> TrialResult:
        worth = {prompt: self._worth(cases, prompt) for prompt in tried}
        best: Prompt = "base"
        base, harmed = worth["base"], None
        if "blend" in worth:
            if worth["blend"].mean() < base.mean():
                harmed = float(worth["blend"].mean())
            else:
                best = "blend"
        chance = MIN_NATS if self.kind == "free" else MIN_POINTS
        for prompt in SHOWING:
            # A member on its own task is believed to need nothing to be shown.
            spared = chance if self.own and best == "blend" else 0.0
            least = max(float(base.mean()) + chance, float(worth[best].mean()) + spared)
            if prompt in worth and worth[prompt].mean() >= least:
                best = prompt
        now = worth[best]
        outcomes = tuple(CaseOutcome(self.part, *pair) for pair in zip(base.tolist(), now.tolist(), strict=True))
        evidence = Evidence(examples=self.examples) if best in SHOWING else NONE
        return TrialResult(evidence, prompt=best, outcomes=outcomes, harmed=harmed)

    def _worth(self, cases: Sequence[int], prompt: Prompt) -> NDArray[np.float64]:
        """Return what each case is worth: nats a token, or 100 and 0 for a right and a wrong choice.

        The plain base was never taught where an answer ends: it is given the rule that gets most choices right, so that
        nothing counts as gained that another rule gives too.
        """
        values = self._values[prompt]
        if self.kind == "free":
            return np.array([values[case].mean for case in cases])

        def right(case: int, rule: Rule) -> float:
            answer = self.samples[case].answer
            place = None if answer is None else place_among(answer, self.texts(case))
            return 100.0 * (int(np.argmax(values[case].by_rule[rule])) == place)

        if prompt == "base":
            return max((np.array([right(case, rule) for case in cases]) for rule in RULES), key=lambda row: row.sum())
        return np.array([right(case, rule_for(self.texts(case), ended=True)) for case in cases])
