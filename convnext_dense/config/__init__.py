"""Pure functions on mmengine configs: reading a config, and fitting it to its hardware and data."""
