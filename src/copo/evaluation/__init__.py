"""Measuring: pictures of a model, instruments that look at them, and metrics with definitions (docs/metrics.md).

A metric names the picture sets and the instruments that it needs. `run` renders the sets that are wanted, measures
them chunk by chunk, computes the metrics and writes the report; every step can be stopped, resumed, shared out over
processes, or done on another machine.
"""
