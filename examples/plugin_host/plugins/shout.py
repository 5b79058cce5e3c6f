"""Says it louder."""


def title() -> str:
    """What it does."""
    return "louder"


def transform(text: str) -> str:
    """In capitals."""
    return text.upper() + "!"
