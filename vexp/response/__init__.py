"""Text of responses: answer formats and token classes."""
