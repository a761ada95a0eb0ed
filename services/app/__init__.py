"""What is started, from which configuration, in which order; and the command line."""
