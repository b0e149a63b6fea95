"""The messages that broker, runtime and stranger share. See SPEC.md in this folder."""
