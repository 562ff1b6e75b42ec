"""Serve a GLM over HTTP: a page to ask for questions, and POST /generate.

    python serve_generation.py --model_name_or_path ./checkpoints/glm-large-chinese
    python serve_generation.py --model_name_or_path ./checkpoints/glm-large-chinese --lora_path ./checkpoints/adapter \\
        --port 8080 --max_batch_size 16
    python serve_generation.py --review pairs.jsonl
"""

import glm.runtime  # noqa: F401  sets what paddle reads when it is imported

import os
import sys
from dataclasses import dataclass, fields
from typing import ClassVar

from glm.command_line import choice, parse
from glm.errors import RUN_ERROR, UserError, one_line, one_line_errors, say, tell
from glm.inference.arguments import DTYPE_HELP, DTYPES, ENGINE_HELP, ENGINES, DecodingArguments, to_generation_config
from glm.needs import Need

# Flags that say how a model is served.
OF_MODELS = (
    "model_name_or_path lora_path dtype engine src_length max_batch_size max_concurrent_requests "
    "max_prompts_per_request max_prompt_characters max_request_bytes max_connections max_connections_per_address "
    "header_timeout body_timeout keep_alive_timeout request_timeout stop_timeout "
)
OF_MODELS += " ".join(spec.name for spec in fields(DecodingArguments))
# How long the engine's thread may take to leave its batch when all is over, in seconds.
LEAVING = 5.0


@dataclass
class ServerArguments:
    """The model, where it is served, and limits."""

    NEEDS: ClassVar = (Need(OF_MODELS, lambda flags: not flags.review, beside="--review, which serves no model"),)

    model_name_or_path: str = choice(
        "THUDM/glm-large-chinese", "Directory or name of the model; with --lora_path, of its base model."
    )
    lora_path: str = choice(None, "Directory of a LoRA adapter to answer with.")
    dtype: str = choice("auto", DTYPE_HELP, choices=DTYPES)
    engine: str = choice("auto", ENGINE_HELP, choices=ENGINES)
    host: str = choice("127.0.0.1", "Address to listen on; 0.0.0.0 is all of this machine's.")
    port: int = choice(8000, "Port to listen on; 0 takes a free one.")
    src_length: int = choice(608, "Longest prompt in tokens; of a longer one the context is cut.")
    max_batch_size: int = choice(
        8,
        "Prompts of src_length tokens decoded together; of shorter ones as many more as take the same number of "
        "tokens, source and generated.",
    )
    max_concurrent_requests: int = choice(256, "Requests that are read, wait or are decoded at once; more get 429.")
    max_prompts_per_request: int = choice(64, "Prompts in one request; more get 413.")
    max_prompt_characters: int = choice(20000, "Characters of a prompt's fields together; more get 413.")
    max_request_bytes: int = choice(1048576, "Bytes of a request's body; more get 413.")
    max_connections: int = choice(1024, "Connections at once; of more, the one that has been silent longest is closed.")
    max_connections_per_address: int = choice(512, "The same, from one address; a proxy in front is one address.")
    header_timeout: float = choice(10.0, "Seconds from a connection's beginning to its first request.")
    body_timeout: float = choice(30.0, "Seconds that a request's body may take to arrive; later ones get 408.")
    keep_alive_timeout: float = choice(15.0, "Seconds that a connection may wait for its next request.")
    allowed_hosts: list[str] = choice(
        None,
        "Names that this server goes by besides localhost and addresses, and hosts whose pages may ask it; * for any. "
        "Others get 403: a page elsewhere could reach this machine by them.",
    )
    request_timeout: float = choice(300.0, "Seconds from a request's arrival to its answer; later ones get 504.")
    review: str = choice(
        None,
        "File of generate_pairs.py: serve a page to review its pairs on instead of a model; decisions go to "
        "PAIRS.reviewed.jsonl beside it.",
    )
    stop_timeout: float = choice(60.0, "Seconds after SIGTERM or SIGINT to finish what was accepted.")


def listen(host, port):
    """A listening socket. Raises UserError."""
    import socket

    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=1024)
    except (OSError, UnicodeError) as error:
        raise UserError(f"--host {host} --port {port}: {error}; choose others") from None


def place_of(host, listener):
    """Host and port of a listening socket, as an address has them."""
    return f"[{host}]:{listener.getsockname()[1]}" if ":" in host else f"{host}:{listener.getsockname()[1]}"


def loader(arguments, config, directory, tokenizer):
    """A function that loads the model and gives the decode() of an engine.Engine. Raises UserError."""
    from glm.decoding.generation_config import check_positions
    from glm.export import engines
    from glm.weights import model_directory

    # A model that cannot serve these lengths is no use loading.
    positions = model_directory.load_config(directory).max_sequence_length + 1
    check_positions(positions, arguments.src_length, config.max_new_tokens)
    dtype = model_directory.dtype_to_compute_in(arguments.dtype, directory)
    if engines.needs_paddle(arguments.engine, directory, arguments.lora_path, dtype):
        # It sets a handler of its own for SIGTERM, which ends the process: that has to be there before the server's.
        import paddle  # noqa: F401

    def load():
        engine = engines.opened(arguments.engine, directory, arguments.lora_path, tokenizer, dtype)

        def decode(prompts, batch_config, rows, on_token):
            return engine.run(prompts, batch_config, rows, on_token if config.num_beams == 1 else None)

        return decode

    return load


def build(arguments, decoding):
    """The exchanges.Service that the flags ask for; its engine is not yet started. Raises UserError."""
    config = to_generation_config(decoding, decoding.seed)
    from glm.serving.connections import Connections
    from glm.serving.engine import Engine
    from glm.serving.exchanges import Service
    from glm.serving.origins import Origins
    from glm.serving.requests import Limits
    from glm.weights import model_directory

    directory = model_directory.resolve(arguments.model_name_or_path)
    tokenizer = model_directory.load_tokenizer(directory, arguments.lora_path)
    budget = arguments.max_batch_size * (arguments.src_length + config.new_tokens_a_prompt)
    load = loader(arguments, config, directory, tokenizer)
    return Service(
        Engine(load, tokenizer.eos_id, tokenizer.eop_id, budget),
        tokenizer,
        config,
        Limits(arguments.max_prompts_per_request, arguments.max_prompt_characters, arguments.src_length),
        max_bytes=arguments.max_request_bytes,
        max_requests=arguments.max_concurrent_requests,
        timeout=arguments.request_timeout,
        body_timeout=arguments.body_timeout,
        connections=Connections(
            arguments.max_connections,
            arguments.max_connections_per_address,
            arguments.header_timeout,
            arguments.keep_alive_timeout,
        ),
        origins=Origins([*(arguments.allowed_hosts or ()), arguments.host]),
    )


def review_pairs(arguments):
    """Serve a page to review pairs on until a signal comes. Raises UserError."""
    from glm.pairs import review
    from glm.serving import logs
    from glm.serving.origins import Origins
    from glm.serving.review import serve

    with review.opened(arguments.review) as opened:
        listener = listen(arguments.host, arguments.port)
        logs.set_up()
        say(f"reviewing {len(opened.pairs)} pairs on http://{place_of(arguments.host, listener)}")
        serve(opened, listener, Origins([*(arguments.allowed_hosts or ()), arguments.host]))
    say(f"{len(opened.decided)} decisions in {opened.target}")


def run(arguments, decoding):
    """Serve until a signal comes. Raises UserError, and RunError if something accepted was not finished."""
    listener = listen(arguments.host, arguments.port)
    service = build(arguments, decoding)
    import asyncio

    from glm.serving import logs
    from glm.serving.app import serve

    logs.set_up()
    say(f"serving on http://{place_of(arguments.host, listener)}")
    try:
        asyncio.run(serve(service, listener, arguments.stop_timeout))
    finally:
        leave_safely(service.engine)


def leave_safely(engine):
    """Close the engine. A thread that stays inside paddle would crash the interpreter on its way out, so then the
    process ends here."""
    if engine.close(LEAVING):
        return
    error = sys.exc_info()[1]
    if error is not None:
        tell(f"error: {one_line(error)}")
    sys.stdout.flush()
    os._exit(RUN_ERROR if error is not None else 0)


def main(argv=None):
    """Parse the command line and serve until a signal comes."""
    arguments, decoding = parse((ServerArguments, DecodingArguments), argv, __doc__)
    with one_line_errors():
        review_pairs(arguments) if arguments.review else run(arguments, decoding)


if __name__ == "__main__":
    main()
