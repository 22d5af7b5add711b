"""Pure numerics: vocabulary, scores, calibration and the compiler. Knows no transport, no telemetry, no runtime."""
