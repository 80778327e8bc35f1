"""Convert a checkpoint to another layout, or probe one; see convnext_dense/cli/convert_checkpoint.py."""

from convnext_dense.cli.main import run

if __name__ == "__main__":
    run("convert-checkpoint")
