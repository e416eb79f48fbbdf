"""explore: a local page to play with a model."""

from __future__ import annotations

from lightning_ae.errors import InputError


def explore(
    checkpoint: str,
    path: str | None = None,
    split: str = "test",
    rows: int = 1000,
    seed: int = 0,
    port: int = 5006,
    show: bool = False,
    device: str = "auto",
) -> None:
    """Serve a page on this machine, to move through a model's latent space and see what the decoder answers.

    Sliders move the code of a row, or of an image of yours; two rows are interpolated; rows of the nearest codes, and
    rows by their score, are shown. The page is served to 127.0.0.1 alone, until Ctrl-C; it asks nothing of a network.

    Args:
        checkpoint: the model's checkpoint, or the name of a zoo entry.
        path: the data set: a hub id, a local folder or file, "digits", "fashion" or "sprites" (default: what the model
            was trained on).
        split: train, val or test.
        rows: how many rows of it, at most; drawn by seed.
        seed: of the draw.
        port: where it is served.
        show: open the page in a browser.
        device: cpu, cuda, mps, or auto for the fastest there is.

    Raises:
        InputError: when the port is taken, the model takes no images or has no decoder, or the extra "explore" is not
            installed.
    """
    from lightning_ae.cli import tools, trained
    from lightning_ae.explore.page import HOST, check_extra, check_port, serve

    tools.check_model(checkpoint)
    tools.check_splits([split])
    tools.check_positive(rows=rows)
    check_extra()
    check_port(port)
    from rich.console import Console

    from lightning_ae.explore.state import Explorer

    model = trained.load(checkpoint, device)
    if len(model.input_shape) != 3:
        raise InputError(
            f"the explorer shows images, and the model takes inputs of shape {model.input_shape}",
            "`lightning-ae report` has a page for any model",
        )
    data = trained.data_of(model, checkpoint, path)
    data.prepare_data()
    explorer = Explorer(model, data, trained.split_of(data, split), rows, seed)
    Console(highlight=False, soft_wrap=True).print(f"http://{HOST}:{port}  (Ctrl-C ends it)")
    serve(explorer, port, f"{type(model).__name__}: {checkpoint}", show)
