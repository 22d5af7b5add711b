"""Beside inference servers: speak their protocol, judge what they answer, call the engine in process."""
