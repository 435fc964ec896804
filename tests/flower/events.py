"""What TensorBoard would show of a folder."""

from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2


def read(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0, "images": 0}).Reload()


def scalars(folder: Path) -> dict[str, dict[int, float]]:
    """Values by step, by tag; a step that stands there twice fails."""
    events, found = read(folder), {}
    for tag in events.Tags()["scalars"]:
        found[tag] = {one.step: one.value for one in events.Scalars(tag)}
        assert len(found[tag]) == len(events.Scalars(tag)), tag
    return found


def texts(folder: Path) -> dict[str, list[tuple[int, str]]]:
    events = read(folder)
    return {
        tag.removesuffix("/text_summary"): [
            (one.step, one.tensor_proto.string_val[0].decode()) for one in events.Tensors(tag)
        ]
        for tag in events.Tags()["tensors"]
        if tag.endswith("/text_summary")
    }


def layouts(folder: Path) -> list[dict[str, dict[str, list[str]]]]:
    found = []
    for entry in read(folder).Tensors("custom_scalars__config__"):
        layout = layout_pb2.Layout.FromString(entry.tensor_proto.string_val[0])
        found.append({c.title: {chart.title: list(chart.multiline.tag) for chart in c.chart} for c in layout.category})
    return found


def images(folder: Path) -> dict[str, list[tuple[int, int, int]]]:
    events = read(folder)
    return {tag: [(one.step, one.width, one.height) for one in events.Images(tag)] for tag in events.Tags()["images"]}
