"""Small graphs and photos to calibrate and quantize."""

from small_graphs import model, options, photos, residual, save

__all__ = ["model", "options", "photos", "residual", "save"]
