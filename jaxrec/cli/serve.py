"""jaxrec serve RUN: a web page and a JSON endpoint that answer for a trained run."""

from dataclasses import dataclass
from typing import Annotated

from jaxrec.cli.opened_run import OpenedModel, read_options
from jaxrec.errors import UserError, check_installed
from jaxrec.settings.ranges import Range

EXAMPLES = (
    "jaxrec serve runs/cnn-mnist-1",
    "jaxrec serve runs/cnn-mnist-1 --port 9000",
    "curl --data-binary @photo.jpg http://127.0.0.1:8000/predict",
)


@dataclass(frozen=True)
class Serve(OpenedModel):
    """Answer for a trained run on a web page, and as JSON at /predict, which takes the bytes of an image."""

    port: Annotated[int, Range(0, 65535)] = 8000
    """Port to listen on. 0: a free one."""
    host: str = "127.0.0.1"
    """Address to listen on. The default is reached from this machine alone; whoever reaches another one may ask: there
    is no password."""


def main(argv: list[str]) -> None:
    """Serves until it is stopped."""
    options = read_options(Serve, argv, "jaxrec serve", EXAMPLES)
    check_installed("serving", ("starlette", "uvicorn"), "serve")
    import socket

    import uvicorn

    from jaxrec.host import tune_cpu
    from jaxrec.run.serve import application
    from jaxrec.run.trained import load

    tune_cpu()
    trained = load(options.run, checkpoint=options.checkpoint)
    served = application(trained)
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((options.host, options.port))
            # From here whoever asks waits for the server, which is not there yet.
            listening.listen(128)
        except OSError as error:
            raise UserError(
                f"port {options.port} of {options.host} cannot be listened on ({error.strerror}); choose another one "
                "with --port"
            ) from error
        host, port = listening.getsockname()[:2]
        print(f"{trained.folder.name} answers at http://{host}:{port}; Ctrl-C ends it", flush=True)
        uvicorn.Server(uvicorn.Config(served, log_level="warning", lifespan="off")).run(sockets=[listening])
