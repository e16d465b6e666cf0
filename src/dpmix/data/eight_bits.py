"""What is advised for images of more than 8 bits a channel."""


def in_eight_bits(image: str, white: int = 4095) -> str:
    """Python that turns `image`, an array or a PIL image up to `white`, into an array of 8 bits.

    By a window that is fixed beforehand: one that is taken from the images would leak them, and
    `convert` turns all above 255 white.
    """
    return f"np.interp({image}, (0, {white}), (0, 255)).astype(np.uint8)"
