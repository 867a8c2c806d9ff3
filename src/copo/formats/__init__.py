"""Files of others and of ours: checkpoints, face models, coefficient files, meshes, pictures."""
