"""Agents on many boards, over ssh: install, join, start, collect, remove. `plan` decides, `ssh` and `command` do."""
