"""From a prepared prompt to text: sampling, a runtime's tokens, where the text ends."""
