"""Configuration: one YAML file and environment overrides, unknown keys refused, JSON Schema from the same models."""
