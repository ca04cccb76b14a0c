"""Pictures as tokens: sets of pictures, codecs, class-conditional sampling and judging.

The model is an ordinary decoder over tokens of pictures, trained by the same loop as on text
(:class:`vademecum.images.tokens.PictureTokens` is a :class:`vademecum.data.Material`).
"""
