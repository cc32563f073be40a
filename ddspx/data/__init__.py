"""Audio data sets: manifests, splits, crops, augmentation, practice corpus."""
