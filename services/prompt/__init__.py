"""Messages, tools and media to token ids."""
