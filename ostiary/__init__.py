"""The face of the project: command line, client, demo and simulated vendor hardware."""
