"""The volume: rays, samples, tri-plane features, compositing, blending, shapes."""
