"""The kernel's own answers, asked in bulk: the only room that imports the C extensions."""
