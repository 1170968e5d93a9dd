"""Authoring of ONNX graphs.

``build`` writes the files that the encoder loads; a serving process imports none of this.
"""
