"""Many portraits from a model: pictures, exact labels, a page and a data set (docs/generate.md)."""
