"""What the last block of a decoder saves by computing the masked tokens only, in fvcore's multiply-adds."""


def unasked(visible: int, tokens: int, width: int) -> int:
    """Multiply-adds of the visible tokens that only the authors' code spends, less those of a norm that ours makes twice.

    Args:
        visible: Visible tokens V of a clip.
        tokens: All its tokens N.
        width: Width D of the decoder, whose MLP is four times as wide.
    """
    maps = visible * width * width * (1 + 1 + 8)  # queries, the projection after the attention, the MLP
    attention = 2 * visible * tokens * width
    norms = 5 * width * (visible - (tokens - visible))  # the second one saved, the first one once more for the queries
    return maps + attention + norms
