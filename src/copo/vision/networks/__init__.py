"""Bare definitions of the published networks that adapters run: no files, no devices, no alignment."""
