"""Turns the words around, and counts them."""


def title() -> str:
    """What it does."""
    return "words"


def transform(text: str) -> str:
    """The last word first."""
    return " ".join(reversed(text.split()))


def measure(text: str) -> dict[str, float]:
    """How many there are, and how long they are."""
    words = text.split()
    return {"words": len(words), "longest": max(map(len, words), default=0)}
