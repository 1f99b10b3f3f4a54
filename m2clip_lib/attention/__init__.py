"""What the model looks at, as numbers."""
