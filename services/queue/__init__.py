"""The queue: chat completions that are answered later, and are not lost."""
