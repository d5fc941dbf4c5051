"""Results as JSON, Markdown and HTML."""
