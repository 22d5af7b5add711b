"""Inside other people's processes: hooks that hand a model's signals to a monitor."""
