"""Authoring of ONNX graphs.

``build`` writes the files that ship with the encoder, ``packing`` those of other models for
`model prepare`; a serving process imports none of this.
"""
