"""Beta-VAEs on audio, and how much each latent dimension matters to the output.

Empty so far: the models and the analysis have their own milestone.
"""
