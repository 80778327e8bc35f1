"""Errors whose text is meant for the user, and the line of any other error that is worth showing."""


class UserError(ValueError):
    """An argument, a config or a file is wrong; the text says what is wrong and what to do about it.

    The commands print it as one sentence. Any other error is a bug in the program and is shown with its traceback.
    """


def require_torch(lowest: str, what: str) -> None:
    """Raise a ``UserError`` if torch is older than ``what``, the subject of the sentence, needs."""
    import torch  # commands read their arguments without it

    if torch.__version__ < lowest:
        raise UserError(f"{what} needs torch {lowest} or later; this is torch {torch.__version__}.")


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text without a final period, or its type where the text is empty."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def shortened(text: str, limit: int = 60) -> str:
    """Return a text for a message, cut to ``limit`` characters that end in dots if it is longer."""
    return text if len(text) <= limit else f"{text[: limit - 3]}..."
