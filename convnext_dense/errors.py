"""Errors whose text is written for the person who runs a command or calls a function."""


class UserError(ValueError):
    """An argument, an option or the content of a file is wrong; the message says what is wrong and what to do.

    The commands print the message as one sentence. Any other error is a bug, and is shown with its traceback.
    """


def shortened(text: str, limit: int = 60) -> str:
    """Return a text for a message, cut to ``limit`` characters that end in dots if it is longer."""
    return text if len(text) <= limit else f"{text[: limit - 3]}..."
