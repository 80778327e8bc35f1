"""Trained models as files that run without PyTorch, held against PyTorch before they are written."""
