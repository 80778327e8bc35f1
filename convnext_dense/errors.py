"""The errors whose text is written for the person who runs a command or calls a function."""


class UserError(ValueError):
    """Something that was asked for, or is in a file, is wrong; the text says what, and what to do.

    The commands print it as one sentence. Any other error is a fault of the program, and shown with its traceback.
    """
