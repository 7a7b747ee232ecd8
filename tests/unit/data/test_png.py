import io

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from covt_data.images.png_writer import encode_palette_png


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 256), st.integers(0, 2**32 - 1))
def test_pillow_reads_back_every_pixel(height, width, colors, seed):
    random = np.random.default_rng(seed)
    palette = random.integers(0, 256, (colors, 3), np.uint8)
    pixels = random.integers(0, colors, (height, width), np.uint8)
    with Image.open(io.BytesIO(encode_palette_png(pixels, palette))) as picture:
        picture.load()
        assert np.array_equal(np.asarray(picture.convert("RGB")), palette[pixels])
