"""SGLang on this machine: its model's files fetched, its process started and watched."""
