"""The live viewer: a page in the browser that draws the model's portraits while controls are moved."""
