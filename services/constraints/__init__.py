"""What the engine must enforce of an answer, and what it cannot enforce."""
