"""Spreading independent work over processes, machines and clusters, so that it can be stopped and go on."""
