"""The RPCs of the contract: one servicer a service, and how an answer is told."""
