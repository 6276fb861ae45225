"""Targets as data: one TOML file each."""
