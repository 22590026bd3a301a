"""Benchmarks: each prints a table and writes JSON on request; `make bench` runs them all."""
