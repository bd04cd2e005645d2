"""The command line: every command parses, makes one call, and prints. The one room that knows Typer and rich."""
