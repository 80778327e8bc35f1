"""The commands: arguments, and one call each."""
