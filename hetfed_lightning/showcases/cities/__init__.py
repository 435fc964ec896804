"""Cities that predict their traffic an hour ahead, and one city's car parks."""

from __future__ import annotations

from hetfed_lightning.showcases.cities.data_module import CarParksDataModule, CitiesDataModule

__all__ = ["CarParksDataModule", "CitiesDataModule"]
