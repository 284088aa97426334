"""What a model is: bundle, manifest, trees, intervals."""
