"""Portraits as files of other programs: colours seen from several sides, heads with blendshapes."""
