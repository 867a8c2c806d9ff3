"""Photographs of a person to a portrait of the model, and a model to another style."""
