"""Routing, balance and expert compute."""
