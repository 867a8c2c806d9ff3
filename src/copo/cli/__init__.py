"""What a person runs. One module for each command; `main` finds it, parses its options and reports errors."""
