"""Attach lookup memories and mixtures of experts to Transformers models."""
