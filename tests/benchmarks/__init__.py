"""Long measurements: `make scale` and `make benchmarks` write pages of docs/ from them. Nothing here is a test."""
