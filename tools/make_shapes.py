"""Write the generated data of the demos; see convnext_dense/cli/make_shapes.py."""

from convnext_dense.cli.main import run

if __name__ == "__main__":
    run("make-shapes")
