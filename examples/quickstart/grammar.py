"""A small grammar of picture-book scenes: the quickstart's only source of text.

A prompt names an animal and a place. An answer is one to four sentences about them; each noun may carry up to two adjectives, and a
sentence may wander off to another animal or place. All of it is drawn from one seeded generator, so that every machine makes the same text.
"""

from __future__ import annotations

import random

ANIMALS = (
    "fox", "bear", "owl", "hare", "mouse", "wolf", "deer", "crow", "goat", "duck", "frog", "mole", "lynx", "swan", "toad", "hen",
)  # fmt: skip
PLACES = (
    "forest", "meadow", "valley", "garden", "river", "harbour", "orchard", "village", "castle", "cave", "barn", "hill", "island", "marsh",
)  # fmt: skip
SEASONS = ("spring", "summer", "autumn", "winter")
HOURS = ("morning", "noon", "evening", "night")
ADJECTIVES = (
    "small", "old", "brave", "quiet", "red", "golden", "silver", "hungry", "clever", "sleepy", "proud", "gentle", "wild", "tiny",
    "grey", "merry",
)  # fmt: skip
ACTIONS = ("rests near", "runs through", "sings in", "looks at", "hides in", "walks to", "dreams of", "guards")
MEETINGS = ("meets", "follows", "helps", "watches", "greets", "calls")


def all_prompts() -> list[str]:
    """The grammar's 3,584 prompts, each one once."""
    return [
        f"Describe the {animal} of the {place} one {season} {hour}.\n"
        for animal in ANIMALS
        for place in PLACES
        for season in SEASONS
        for hour in HOURS
    ]


def subject(prompt: str) -> tuple[str, str]:
    """The animal and the place that a prompt of this grammar asks for."""
    words = prompt.split()
    return words[2], words[5]


def answer(prompt: str, source: random.Random) -> str:
    """One random answer to ``prompt``: one to four sentences."""
    animal, place = subject(prompt)
    return " ".join(_sentence(animal, place, source) for _ in range(source.randint(1, 4)))


def _sentence(animal: str, place: str, source: random.Random) -> str:
    who = _noun(animal if source.random() < 0.7 else source.choice(ANIMALS), source)
    if source.random() < 0.5:
        where = _noun(place if source.random() < 0.7 else source.choice(PLACES), source)
        return f"The {who} {source.choice(ACTIONS)} the {where}."
    whom = _noun(source.choice(ANIMALS), source)
    return f"The {who} {source.choice(MEETINGS)} {'an' if whom.startswith('o') else 'a'} {whom}."


def _noun(noun: str, source: random.Random) -> str:
    """``noun`` with no, one or two different adjectives."""
    adjectives = source.sample(ADJECTIVES, k=source.choice((0, 0, 0, 1, 1, 2)))
    return " ".join([*adjectives, noun])
