"""Training of the analyser: rendered heads with exact labels and photographs with teachers, mixed in every batch."""
