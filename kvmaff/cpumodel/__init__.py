"""QEMU's ``-cpu``: a binary's models, what a host can run, and the richest one that a group of hosts shares."""
