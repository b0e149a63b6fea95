"""The guest image: what a confidential VM boots into the runtime, and nothing else."""
