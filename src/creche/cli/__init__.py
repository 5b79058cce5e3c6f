"""The command line: typed commands over the public API, and no logic of their own."""
