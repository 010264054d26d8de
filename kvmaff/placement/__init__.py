"""Deciding: which thread may run on which CPU. Pure: no I/O, no clock, no unseeded randomness."""
