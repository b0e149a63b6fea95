"""The command line: one module per noun, each with `add_parser`."""
