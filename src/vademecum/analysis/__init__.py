"""What a memory and experts cost and what they learned, as functions from models and recorded forwards to numbers."""
