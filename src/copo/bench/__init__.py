"""Measurements that `copo bench` prints."""
