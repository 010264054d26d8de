"""What the machine is: its CPUs, how they hang together, and what it keeps apart. Only reads."""
