"""The command line: one file a command, each of which reads options, calls a function, prints."""
