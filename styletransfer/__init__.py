"""Audio-effect style transfer with effects that have no gradient of their own."""
