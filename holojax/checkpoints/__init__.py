"""Weights on disk: our own checkpoints (`store`), and files that torch wrote (`torch_import`)."""
