"""Bare network definitions: no files, devices, command lines or losses."""
