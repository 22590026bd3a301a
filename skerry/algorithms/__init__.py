"""Federated learning as functions of arrays: no I/O, no clock, no torch."""
