"""The command line: parse, call, print, exit code. It does no maths and imports no torch before a command needs it."""
