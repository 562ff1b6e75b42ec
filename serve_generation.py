"""Serve a GLM over HTTP: a page to ask for questions, and POST /generate.

    python serve_generation.py --model_name_or_path ./checkpoints/glm-large-chinese
    python serve_generation.py --model_name_or_path ./checkpoints/glm-large-chinese --lora_path ./checkpoints/adapter \\
        --port 8080 --max_batch_size 16
"""

import runtime  # noqa: F401  sets what paddle reads when it is imported

import os
import sys
from dataclasses import dataclass

from arguments import DecodingArguments, UsageError, choice, parse, to_generation_config
from errors import RUN_ERROR, UserError, one_line, one_line_errors, tell

# How long the engine's thread may take to leave its batch when all is over, in seconds.
LEAVING = 5.0


@dataclass
class ServerArguments:
    """The model, where it is served, and limits."""

    model_name_or_path: str = choice(
        "THUDM/glm-large-chinese", "Directory or name of the model; with --lora_path, of its base model."
    )
    lora_path: str = choice(None, "Directory of a LoRA adapter to answer with.")
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
    request_timeout: float = choice(300.0, "Seconds from a request's arrival to its answer; later ones get 504.")
    stop_timeout: float = choice(60.0, "Seconds after SIGTERM or SIGINT to finish what was accepted.")

    def __post_init__(self):
        for name in (
            *("src_length", "max_batch_size", "max_concurrent_requests", "max_prompts_per_request"),
            *("max_prompt_characters", "max_request_bytes"),
        ):
            if getattr(self, name) < 1:
                raise UsageError(f"--{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("request_timeout", "stop_timeout"):
            # Not "at most": that would let NaN pass.
            if not 0 < getattr(self, name) <= 86400:
                raise UsageError(f"--{name} is {getattr(self, name)}; it must be above 0 and at most 86400")
        if not 0 <= self.port <= 65535:
            raise UsageError(f"--port is {self.port}; it must be between 0 and 65535")


def listen(host, port):
    """A listening socket. Raises UserError."""
    import socket

    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=1024)
    except (OSError, UnicodeError) as error:
        raise UserError(f"--host {host} --port {port}: {error}; choose others") from None


def loader(arguments, config, directory, tokenizer):
    """A function that loads the model and gives the decode() of a batching_engine.Engine. Raises UserError."""
    import adapters
    import checkpoint
    from decoding import Decoder, run
    from generation_config import SpecialIds, check_positions

    # Reading the configuration imports the last of paddlenlp, which sets how signals are handled; the server does after
    # it. And a model that cannot serve these lengths is no use loading.
    positions = checkpoint.load_config(directory).max_sequence_length + 1
    check_positions(positions, arguments.src_length, config.max_new_tokens)

    def load():
        model = adapters.load_model(directory, arguments.lora_path)
        decoder = Decoder(model, config, SpecialIds.of(tokenizer, model.config.vocab_size))

        def decode(prompts, batch_config, rows, on_token):
            decoder.on_token = on_token if config.num_beams == 1 else None
            return run(decoder, prompts, batch_config, rows)

        return decode

    return load


def build(arguments, decoding):
    """The exchanges.Service that the flags ask for; its engine is not yet started. Raises UserError."""
    config = to_generation_config(decoding, decoding.seed)
    import checkpoint
    from batching_engine import Engine
    from exchanges import Service
    from prompt_requests import Limits

    directory = checkpoint.resolve(arguments.model_name_or_path)
    tokenizer = checkpoint.load_tokenizer(directory)
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
    )


def run(arguments, decoding):
    """Serve until a signal comes. Raises UserError, and RunError if something accepted was not finished."""
    listener = listen(arguments.host, arguments.port)
    service = build(arguments, decoding)
    import asyncio

    from serving import serve

    host = f"[{arguments.host}]" if ":" in arguments.host else arguments.host
    print(f"serving on http://{host}:{listener.getsockname()[1]}", flush=True)
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
        run(arguments, decoding)


if __name__ == "__main__":
    main()
