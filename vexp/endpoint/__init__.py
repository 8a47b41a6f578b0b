"""Asking a model behind an OpenAI-compatible endpoint, patiently and never twice."""
