"""Doing: the only room that changes the machine, and that always knows the way back."""
