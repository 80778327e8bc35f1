"""Points a config at a folder of custom data, with one module per task."""
