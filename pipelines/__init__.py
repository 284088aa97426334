"""Batch: from a source's answer to a registered model, one module per stage."""
