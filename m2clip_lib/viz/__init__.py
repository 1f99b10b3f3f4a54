"""What the model does and looks at, as figures, films, pages and widgets."""
