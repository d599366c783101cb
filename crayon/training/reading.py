"""Conversations that teach to read examples: turns of one task, so that what to answer stands in the prompt alone.

After MetaICL (Min et al. 2022), with two changes. An answer counts where the turns before it tell it: a label that was
shown, or any answer after the first few. And labels are often renamed, so that remembering them is no help.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from crayon.errors import ConfigError
from crayon.training.cuts import cut

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from crayon.data.qa import Item
    from crayon.training.examples import Prompts
    from crayon.training.recipe import ReaderRecipe

MOST_LABELS = 20  # of a task whose answers are taken for a closed set,
LEAST_EACH = 4  # which repeat so often
FEWEST_ITEMS = 20  # of a task
UNCOUNTED = 2  # free answers at the start: one example seldom says what the task is
DRAWN_LABELS = 10  # most of one conversation
FEWEST_EXAMPLES = 4
LONGEST_QUESTION = 500  # letters: several have to fit
LONGEST_ANSWER = 24  # tokens
COMMON = 10  # times that a word stands in short questions, before a label is renamed to it
MISSES = 1000  # conversations drawn in vain, one after the other


@dataclass(frozen=True, slots=True)
class ReadTask:
    """Questions and answers of one task; `labels` are its answers where they are a closed set, else ()."""

    name: str
    pairs: tuple[tuple[str, str], ...]
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ReadTurn:
    """A question, its answer, and whether the turns before it tell the answer."""

    question: str
    answer: str
    counts: bool


@dataclass(frozen=True, slots=True)
class Reading:
    """A conversation in tokens, behind the common start; `said` are the places of the tokens to be learned."""

    text: tuple[int, ...]
    said: tuple[int, ...]


def read_tasks(recipe: ReaderRecipe, items: Sequence[Sequence[Item]]) -> list[list[ReadTask]]:
    """Return the tasks of each source, and last those cut out of short questions of all sources.

    Args:
        recipe: says which cuts are made.
        items: of each source.

    Raises:
        ConfigError: a source has no task with enough items.
    """
    found = []
    for source, own in zip(recipe.sources, items, strict=True):
        groups: dict[str, list[Item]] = defaultdict(list)
        for item in own:
            if len(item.prompt) > LONGEST_QUESTION:
                continue
            relation = dict(item.facts).get("relation")
            groups[f"{item.dataset}/{item.task}" + (f"/{relation}" if relation else "")].append(item)
        tasks = [read_task(name, part) for name, part in groups.items() if len(part) >= FEWEST_ITEMS]
        if not tasks:
            where = source.dataset or source.file
            raise ConfigError("reader.sources", f"{where} has no task of at least {FEWEST_ITEMS} short items")
        found.append(tasks)
    if recipe.cuts:
        texts = list(dict.fromkeys(item.question for own in items for item in own))
        cuts = [
            ReadTask(rule, tuple((text, part) for text in texts if (part := cut(rule, text)))) for rule in recipe.cuts
        ]
        found.append([task for task in cuts if len(task.pairs) >= FEWEST_ITEMS])
    return [tasks for tasks in found if tasks]


def read_task(name: str, items: Sequence[Item]) -> ReadTask:
    """Return a task, with labels if its answers are few and repeat."""
    pairs = tuple((item.prompt, item.answer_text) for item in items)
    counts = Counter(answer for _, answer in pairs)
    closed = 2 <= len(counts) <= MOST_LABELS and len(pairs) >= LEAST_EACH * len(counts)
    return ReadTask(name, pairs, tuple(sorted(counts)) if closed else ())


def turns(task: ReadTask, recipe: ReaderRecipe, words: Sequence[str], rng: random.Random) -> list[ReadTurn]:
    """Draw a conversation: up to `recipe.examples` turns and a last question.

    Args:
        task: of all turns.
        recipe: says how many turns there are at most, and which share of labels is renamed.
        words: what labels are renamed to.
        rng: draws.
    """
    count = rng.randint(min(FEWEST_EXAMPLES, recipe.examples), recipe.examples) + 1
    if not task.labels:
        drawn = rng.sample(task.pairs, min(count, len(task.pairs)))
        return [ReadTurn(question, answer, i >= UNCOUNTED) for i, (question, answer) in enumerate(drawn)]
    labels = rng.sample(task.labels, rng.randint(2, min(DRAWN_LABELS, len(task.labels))))
    names = dict(zip(labels, renamed(labels, recipe, words, rng), strict=True))
    pools = {label: [question for question, answer in task.pairs if answer == label] for label in labels}
    # Each label about as often as any other, as a user would choose samples; the last is any.
    order = [label for _ in range(count // len(labels) + 1) for label in rng.sample(labels, len(labels))][: count - 1]
    rng.shuffle(order)
    order.append(rng.choice(labels))
    shown: set[str] = set()
    found = []
    for label in order:
        if pools[label]:
            question = pools[label].pop(rng.randrange(len(pools[label])))
            found.append(ReadTurn(question, names[label], label in shown))
            shown.add(label)
    return found


def renamed(labels: Sequence[str], recipe: ReaderRecipe, words: Sequence[str], rng: random.Random) -> list[str]:
    """Return what a conversation calls these labels: other words, one another's names, or their own in some writing."""
    draw = rng.random()
    if draw < recipe.replaced:
        return rng.sample(words, len(labels))
    if draw < recipe.replaced + recipe.shuffled:
        return rng.sample(labels, len(labels))
    write = rng.choice((str, str, str, str.title, str.upper, lambda name: name.lower().replace(" ", "_")))
    written = [write(label) for label in labels]
    return written if len(set(written)) == len(labels) else list(labels)


def label_words(tasks: Sequence[Sequence[ReadTask]]) -> list[str]:
    """Return names for renamed labels: lower-case words of the tasks' own short questions and labels."""
    texts = (text for part in tasks for task in part for text in (*task.labels, *(q for q, _ in task.pairs[:200])))
    found = Counter(word for text in texts for word in text.split() if word.isalpha() and word.islower())
    common = sorted(word for word, times in found.items() if 4 <= len(word) <= 10 and times >= COMMON)
    return common if len(common) >= DRAWN_LABELS else [f"class {letter}" for letter in "abcdefghijklmnop"]


def readings(
    tasks: Sequence[Sequence[ReadTask]], shares: Sequence[float], prompts: Prompts, recipe: ReaderRecipe, seed: int
) -> Iterator[Reading]:
    """Yield conversations without end: a source by its share, one of its tasks evenly, its turns by chance.

    Raises:
        ConfigError: hardly any conversation fits.
    """
    rng = random.Random(seed)  # noqa: S311 - draws examples, keeps no secret
    words = label_words(tasks)
    misses = 0
    while True:
        source = rng.choices(tasks, weights=shares)[0]
        found = reading(turns(rng.choice(source), recipe, words, rng), prompts, recipe.max_tokens)
        misses = 0 if found is not None else misses + 1
        if misses == MISSES:
            raise ConfigError(
                "reader.max_tokens", f"conversations do not fit in {recipe.max_tokens} tokens; allow more"
            )
        if found is not None:
            yield found


def reading(conversation: Sequence[ReadTurn], prompts: Prompts, most: int) -> Reading | None:
    """Return a conversation in at most so many tokens, its last turns left out; None where nothing would be learned."""
    text: list[int] = []
    said: list[int] = []
    for turn in conversation:
        example = prompts.of(turn.question, turn.answer)
        joint = prompts.joint if text else ()
        if len(text) + len(joint) + example.tokens > most or len(example.answer) > LONGEST_ANSWER:
            break
        text += (*joint, *example.prompt)
        if turn.counts:
            said += range(len(text), len(text) + len(example.answer))
        text += example.answer
    return Reading(tuple(text), tuple(said)) if said else None


def user(
    task: ReadTask, samples: int, asked: int, rng: random.Random
) -> tuple[list[tuple[str, str]], list[tuple[str, str]], tuple[str, ...]]:
    """Draw a user of a task: samples with each label about as often, other questions, and the labels (free: none).

    Raises:
        ConfigError: the task is too small.
    """
    labels = tuple(rng.sample(task.labels, min(DRAWN_LABELS, len(task.labels))))
    pairs = [pair for pair in rng.sample(task.pairs, len(task.pairs)) if not labels or pair[1] in labels]
    if len(pairs) < samples + asked:
        raise ConfigError("reader.held_out", f"a task has {len(pairs)} short items; {samples + asked} are needed")
    # The first of each label, then the second of each, ...: of free answers the first that come.
    seen: Counter[str] = Counter()
    ranks = []
    for place, (_, answer) in enumerate(pairs):
        key = answer if labels else ""
        ranks.append((seen[key], place))
        seen[key] += 1
    order = [place for _, place in sorted(ranks)]
    shown = [pairs[place] for place in order[:samples]]
    rng.shuffle(shown)
    rest = sorted(order[samples:])[:asked]
    return shown, [pairs[place] for place in rest], labels
