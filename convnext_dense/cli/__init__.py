"""The command-line tools; each module parses arguments and makes one call."""
