"""Write a config with ConvNeXt as its backbone; see convnext_dense/cli/plug.py."""

from convnext_dense.cli.main import run

if __name__ == "__main__":
    run("plug")
