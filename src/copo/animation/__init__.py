"""What drives a portrait: clips of expressions and poses from files, videos and our own talk; smoothing; cameras."""
