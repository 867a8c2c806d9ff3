"""Photographs and videos to a training set (docs/prepare.md): sources, units of work, engines, assembly, report."""
