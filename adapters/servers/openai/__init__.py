"""What OpenAI-compatible servers answer, read as token streams."""
