"""Serve a model over HTTP, as OpenAI's API has it: /v1/chat/completions, /v1/completions, /v1/models.

    %(prog)s --model apps/fm9g_7b/data/checkpoints/sft --page
    %(prog)s --model models/llama --adapter lora.pt --template chatml --port 8080

For this machine alone, unless --host says otherwise. One request is generated for after the other: where that does not
do, export the model to a Hugging Face folder, which vLLM and others serve.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
import threading
from typing import TYPE_CHECKING

from fm9g.commandline import parse_flags
from fm9g.commands.model_flags import add_model_flags, open_model
from fm9g.errors import UserError

if TYPE_CHECKING:  # torch is imported late here, after the flags have been checked
    import uvicorn

    from fm9g.serve.api import Server
    from fm9g.serve.worker import Worker

PORT, NEW_TOKENS = 8000, 1024
KEY = "FM9G_API_KEY"
_HERE = ("127.0.0.1", "localhost", "::1")
_GRACE = 5  # seconds that answers have when the server ends


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_model_flags(parser)
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="the address to listen at (%(default)s: this machine alone)")
    add("--port", type=int, default=PORT, help="the port to listen at (%(default)s)")
    add("--api-key", default=os.environ.get(KEY, ""), metavar="KEY", help=f"what requests must show (${KEY}; none)")
    add("--page", action="store_true", help="serve a page to talk to the model, too")
    add("--name", metavar="NAME", help="what the model is called (default: its file's or folder's name)")
    text = "tokens of an answer at most, where a request does not say (%(default)s)"
    add("--max-new-tokens", type=int, default=NEW_TOKENS, metavar="N", help=text)
    add("--temperature", type=float, default=1.0, help="where a request does not say (%(default)s)")
    add("--top-p", type=float, default=1.0, help="where a request does not say (%(default)s)")
    return parser


def main() -> None:
    """Run the command line."""
    flags = parse_flags(arguments())
    if not 0 < flags.port < 1 << 16:
        raise UserError(f"port must be from 1 to 65535, not {flags.port}")
    try:
        import uvicorn
        from starlette.middleware.trustedhost import TrustedHostMiddleware

        from fm9g.serve.api import Server
    except ImportError as error:
        raise UserError(f"serving needs two packages more ({error}): pip install starlette uvicorn") from None
    from fm9g.generation.sampling import Sampling
    from fm9g.serve.text_model import Request
    from fm9g.serve.worker import Worker

    listening = _listen(flags) if int(os.environ.get("RANK", "0")) == 0 else None
    defaults = Request(flags.max_new_tokens, Sampling(flags.temperature, top_p=flags.top_p))
    with open_model(flags, True) as model:
        worker = Worker(model)
        if listening is None:
            if not model.by_itself:
                worker.follow()
            return
        path = flags.model.resolve()
        name = flags.name or (path.name if path.is_dir() else path.stem)
        server = Server(model, worker, name, flags.api_key, defaults, flags.page)
        if model.renderer is None:
            print("warning: no chat template: /v1/completions alone is answered (--template)", file=sys.stderr)
        app = server.app()
        if flags.host in _HERE and not flags.api_key:  # a name that another site has given this machine is not answered
            app.add_middleware(TrustedHostMiddleware, allowed_hosts=[*_HERE, "[::1]"])
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=_GRACE)
        _serve(uvicorn.Server(config), server, flags, listening)


def _listen(flags: argparse.Namespace) -> socket.socket:
    """The socket to serve at, before the model is loaded: who asks by then waits."""
    family = socket.AF_INET6 if ":" in flags.host else socket.AF_INET
    try:
        return socket.create_server((flags.host, flags.port), family=family)
    except OSError as error:
        raise UserError(f"cannot listen at {flags.host}, port {flags.port}: {error.strerror or error}") from None


def _serve(http: uvicorn.Server, server: Server, flags: argparse.Namespace, listening: socket.socket) -> None:
    """Answer requests until the program is told to end, or the worker fails."""
    thread = threading.Thread(target=_work, args=(server.worker, http), daemon=True)
    thread.start()
    where = f"http://{flags.host}:{flags.port}"
    pages = f"{where}/ for talking, {where}/v1 for programs" if flags.page else f"{where}/v1"
    if flags.host not in _HERE and not flags.api_key:
        print(f"warning: {flags.host} is open to others, and no --api_key is asked for", file=sys.stderr)
    print(f"serving {server.name}: {pages}", file=sys.stderr, flush=True)
    http.run([listening])
    server.worker.close()
    thread.join()
    if server.worker.failed:
        raise UserError("the server has ended, since generating failed: what it said stands above")


def _work(worker: Worker, http: uvicorn.Server) -> None:
    """Generate; when that ends, for whatever reason, so does the server."""
    try:
        worker.run()
    finally:
        http.should_exit = True
