"""Training of the learned heads: NumPy in float64, seeded, on bounded samples; what they compute is in the vocabulary."""
