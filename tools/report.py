"""Write what a trained model gets right and wrong; see convnext_dense/cli/report.py."""

from convnext_dense.cli.main import run

if __name__ == "__main__":
    run("report")
