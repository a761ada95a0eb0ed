"""What inferd costs, and what its peers do."""
