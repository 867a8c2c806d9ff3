"""The parametric head: coefficients to mesh, colour and landmarks, and the renderer that looks at it."""
