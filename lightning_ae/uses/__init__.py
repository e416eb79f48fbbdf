"""What codes are used for: a function and a picture each, from natural units to natural units."""

from lightning_ae.callbacks.pictures import sample_figure
from lightning_ae.callbacks.projections import projection_figure
from lightning_ae.uses.attributes import add_attribute, arithmetic, attribute_vector
from lightning_ae.uses.compressed import Compressed, CompressedIndices, read_code
from lightning_ae.uses.compression import Codec, psnr
from lightning_ae.uses.conditions import class_samples
from lightning_ae.uses.figures import (
    arithmetic_figure,
    attribute_figure,
    class_figure,
    imputation_figure,
    interpolation_figure,
    jacobian_figure,
    reconstruction_figure,
    sheet,
    traversal_figure,
)
from lightning_ae.uses.imputation import impute
from lightning_ae.uses.paths import interpolate
from lightning_ae.uses.rates import Rate, codec_rates, pillow_rates, rates_figure
from lightning_ae.uses.tiles import decode_in_tiles, encode_in_tiles

__all__ = [
    "Codec",
    "Compressed",
    "CompressedIndices",
    "Rate",
    "add_attribute",
    "arithmetic",
    "arithmetic_figure",
    "attribute_figure",
    "attribute_vector",
    "class_figure",
    "class_samples",
    "codec_rates",
    "decode_in_tiles",
    "encode_in_tiles",
    "imputation_figure",
    "impute",
    "interpolate",
    "interpolation_figure",
    "jacobian_figure",
    "pillow_rates",
    "projection_figure",
    "psnr",
    "read_code",
    "rates_figure",
    "reconstruction_figure",
    "sample_figure",
    "sheet",
    "traversal_figure",
]
