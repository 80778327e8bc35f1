"""Points a config at a folder of one's own data, one module per task."""
