"""The regional coordinator: one service."""
