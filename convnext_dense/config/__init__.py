"""Pure functions on a config of mmengine's: reading it, and fitting it to what it runs on and reads."""
