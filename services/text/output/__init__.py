"""What a model's text says: content, reasoning and tool calls, told apart as it comes."""
