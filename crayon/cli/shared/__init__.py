"""What several commands share: the program, its console, options and exit codes, and opening a client."""
