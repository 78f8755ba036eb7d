"""The command line: one file a command, thin: parse, call, print. Nothing heavy is imported before it is needed."""
