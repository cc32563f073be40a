"""Spectrogram images as pictures: what augmentation changes, what similarity says."""

import jax
import numpy as np
import pytest

from vae.images import ImageAugmentation, augment, similarity


def test_augmentation_changes_what_it_says():
    rng = np.random.default_rng(0)
    image = np.full((2, 12, 10), -2.0, np.float32)
    image[:, 4:8, 3:6] = rng.uniform(0, 1, (2, 4, 3))
    key = jax.random.key(0)
    same = augment(ImageAugmentation(), image, key)
    np.testing.assert_array_equal(same, image)
    moved = np.asarray(augment(ImageAugmentation(shift_frames=3), image, key))
    np.testing.assert_allclose(np.sort(moved.ravel()), np.sort(image.ravel()))
    assert not np.array_equal(moved, image)
    louder = np.asarray(augment(ImageAugmentation(gain=0.5), image, key))
    change = louder - image
    heard = image > -2
    assert np.all(change[~heard] == 0)
    for one, where in zip(change, heard, strict=True):
        assert np.ptp(one[where]) < 1e-5 and 0 < abs(one[where][0]) <= 0.5
    blurred = np.asarray(augment(ImageAugmentation(blur=2.0), image, key))
    assert blurred.max() < image.max()
    steeper = np.asarray(augment(ImageAugmentation(contrast=0.5), image, key))
    assert np.all(steeper[~heard] == -2) and not np.allclose(steeper, image)
    with pytest.raises(ValueError, match="contrast"):
        ImageAugmentation(contrast=1.0)


def test_similarity_against_skimage_formulas():
    rng = np.random.default_rng(0)
    target = rng.uniform(-3, 5, (2, 20, 16)).astype(np.float32)
    equal = similarity(target, target)
    np.testing.assert_allclose(equal["ssim"], 1.0, atol=1e-5)
    np.testing.assert_array_equal(equal["psnr_db"], 120.0)
    noisy = np.clip(target + 0.8, target.min((1, 2)).max(), target.max((1, 2)).min())
    wide = np.ptp(target, (1, 2))
    error = np.mean(((noisy - target) / wide[:, None, None]) ** 2, (1, 2))
    ours = similarity(noisy, target)
    np.testing.assert_allclose(ours["psnr_db"], -10 * np.log10(error), rtol=1e-3)
    assert np.all(np.asarray(ours["ssim"]) < 0.99)
