"""Ratios measured in one run: machines differ and are noisy, ratios travel."""
