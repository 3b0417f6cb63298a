"""Other projects' files: key tables and nothing else."""
