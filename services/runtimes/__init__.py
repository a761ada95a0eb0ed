"""Runtimes: token ids in, token ids out. An adapter knows one SGLang interface, and nothing of chat."""
