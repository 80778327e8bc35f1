"""The generated data of the demos."""
