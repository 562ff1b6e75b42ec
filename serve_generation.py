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
from pathlib import Path
from typing import ClassVar, NamedTuple

from glm.command_line import UsageError, choice, parse
from glm.errors import RUN_ERROR, UserError, note, one_line, one_line_errors, say, tell
from glm.inference.arguments import (
    DTYPE_HELP,
    DTYPES,
    ENGINE_HELP,
    ENGINES,
    RUNTIME_HELP,
    RUNTIMES,
    DecodingArguments,
    to_generation_config,
)
from glm.needs import Need

# Flags of what a model's directory says, of programs, and of how either is served.
OF_DIRECTORIES = "model_name_or_path lora_path lora dtype engine " + " ".join(
    spec.name for spec in fields(DecodingArguments)
)
OF_PROGRAMS = "model_prefix runtime device"
OF_SERVING = (
    "model_path src_length max_batch_size batching served_model_name max_num_beams max_concurrent_requests "
    "max_prompts_per_request max_prompt_characters max_request_bytes max_connections max_connections_per_address "
    "header_timeout body_timeout keep_alive_timeout request_timeout stop_timeout allowed_origins api_key_file "
    "ssl_certfile ssl_keyfile"
)
# How long the engine's thread may take to leave its batch when all is over, in seconds.
LEAVING = 5.0


@dataclass
class ServerArguments:
    """The model, where it is served, and limits."""

    NEEDS: ClassVar = (
        Need(
            f"{OF_DIRECTORIES} {OF_PROGRAMS} {OF_SERVING}",
            lambda flags: not flags.review,
            beside="--review, which serves no model",
        ),
        Need(
            OF_DIRECTORIES,
            lambda flags: not flags.model_path,
            beside="--model_path, whose program says how to decode; requests may say otherwise",
        ),
        Need(OF_PROGRAMS, lambda flags: flags.model_path, missing="--model_path"),
        Need("lora", lambda flags: not flags.lora_path, beside="--lora_path, which is part of the model"),
        Need("lora", lambda flags: flags.batching != "closed", beside="--batching closed"),
        Need("ssl_keyfile", lambda flags: flags.ssl_certfile, missing="--ssl_certfile"),
    )

    model_name_or_path: str = choice(
        "THUDM/glm-large-chinese", "Directory or name of the model; with --lora_path, of its base model."
    )
    lora_path: str = choice(None, "Directory of a LoRA adapter to answer with.")
    lora: list[str] = choice(
        None,
        "NAME=DIR, several, or the flag again: adapters of the model, which requests name as their model. All are "
        "decoded together, by --engine onnx; with a key, others come and go by POST /v1/load_lora_adapter.",
        goes_on=True,
    )
    dtype: str = choice("auto", DTYPE_HELP, choices=DTYPES)
    engine: str = choice("auto", ENGINE_HELP, choices=ENGINES)
    model_path: str = choice(None, "Directory of an exported program to serve instead; it says how to decode.")
    model_prefix: str = choice("glm", "The program's file name prefix.")
    runtime: str = choice("auto", RUNTIME_HELP, choices=RUNTIMES)
    device: str = choice("cpu", "Where to run the program.", choices=("cpu", "gpu"))
    host: str = choice("127.0.0.1", "Address to listen on; 0.0.0.0 is all of this machine's.")
    port: int = choice(8000, "Port to listen on; 0 takes a free one.")
    src_length: int = choice(608, "Longest prompt in tokens; of a longer one the context is cut.")
    max_batch_size: int = choice(
        8,
        "Prompts of src_length tokens decoded together; of shorter ones as many more as take the same number of "
        "tokens, source and generated.",
    )
    batching: str = choice(
        "auto",
        "How prompts come together: continuous, each joins and leaves the others while they are decoded; closed, a "
        "batch is decoded to its end. auto: continuous where what decodes takes single steps, as --engine onnx does.",
        choices=("auto", "continuous", "closed"),
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
    allowed_origins: list[str] = choice(
        None, "Origins of other servers' pages that may ask this one, such as https://app.example; * for any (CORS)."
    )
    api_key_file: str = choice(
        None,
        "File of keys, one a line, of which requests for texts must send one (Authorization: Bearer KEY); the "
        "environment's GLM_API_KEY is one, too. Default: all may ask.",
    )
    ssl_certfile: str = choice(None, "File of a TLS certificate, PEM: the server speaks HTTPS.")
    ssl_keyfile: str = choice(None, "File of the certificate's private key, where that is not in the same file.")
    served_model_name: str = choice(None, "Name of the model in answers. Default: the last part of its directory.")
    max_num_beams: int = choice(8, "The most beams that a request may ask for; --num_beams, if that is more.")
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


class Served(NamedTuple):
    """What is served: a tokenizer, the GenerationConfig of a request without options, whether all searches are of its
    structure, a name, load(), which gives what an engine.Engine decodes by, the Binding of texts within their sources,
    what the page offers (see kinds_of()), and a StoredBank, or None."""

    tokenizer: object
    config: object
    fixed: bool
    name: str
    load: object
    binding: object
    kinds: tuple = ("ask", "chat")
    adapters: object = None


def model_of(arguments, decoding):
    """The Served of a model's directory. Raises UserError."""
    from glm.export import engines
    from glm.export.stored_bank import StoredBank
    from glm.inference.binding import Binding
    from glm.weights import model_directory

    config = to_generation_config(decoding, decoding.seed)
    directory = model_directory.resolve(arguments.model_name_or_path)
    tokenizer = model_directory.load_tokenizer(directory, arguments.lora_path)
    # A model that cannot serve these lengths is no use loading.
    check_lengths(arguments, config, model_directory.load_config(directory).max_sequence_length + 1)
    dtype = model_directory.dtype_to_compute_in(arguments.dtype, directory)
    adapted = bool(arguments.lora)
    if adapted and engines.choice_of(arguments.engine, dtype) != "onnx":
        raise UserError("--lora: adapters are decoded together by --engine onnx alone, which cannot be here")
    if adapted or engines.needs_paddle(arguments.engine, directory, arguments.lora_path, dtype):
        # It sets a handler of its own for SIGTERM, which ends the process: that has to be there before the server's.
        import paddle  # noqa: F401

    adapters, binding = StoredBank(directory, tokenizer) if adapted else None, Binding(tokenizer)

    def load():
        bank = adapters.bank if adapted else None
        engine = engines.opened(arguments.engine, directory, arguments.lora_path, tokenizer, dtype, bank=bank)
        return decoding_of(engine, arguments, config, binding, adapted)

    name = Path(arguments.model_name_or_path).resolve().name
    return Served(tokenizer, config, False, name, load, binding, kinds_of(directory), adapters)


def program_of(arguments):
    """The Served of an exported program. Raises UserError."""
    from glm.data.tokenization import Tokenizer
    from glm.export import for_searches, program, runners
    from glm.inference.binding import Binding

    exported = program.describe(arguments.model_path, arguments.model_prefix)
    tokenizer, config = Tokenizer(arguments.model_path), exported.config
    program.check_tokenizer(exported, tokenizer)
    tokenizer.preparation = exported.preparation
    check_lengths(arguments, config, exported.positions)
    if runners.chosen(exported, arguments.runtime, arguments.device) == "paddle":
        # See model_of(). FastDeploy, where it is what runs the program, must be without it.
        import paddle  # noqa: F401

    binding = Binding(tokenizer)

    def load():
        engine = for_searches.opened(exported, arguments.runtime, arguments.device)
        return decoding_of(engine, arguments, config, binding)

    return Served(tokenizer, config, exported.format != "onnx", exported.prefix, load, binding)


def kinds_of(directory):
    """What the page offers for the model in a directory, what it has learnt first: to ask, to chat, and to make pairs
    of a passage."""
    from glm.files.descriptions import parsed, read_text

    path = Path(directory) / "args.json"
    try:
        flags = parsed(read_text(path), path)
    except UserError:
        return ("ask", "chat")
    if "tasks" not in flags:
        return ("chat", "ask")
    learnt = all(task in str(flags["tasks"]) for task in ("ask", "extract", "answer"))
    return ("ask", "pairs") if learnt else ("ask",)


def adapters_of(given):
    """(name, directory) of each adapter that --lora names. Raises UsageError."""
    for text in given or ():
        name, _, path = text.partition("=")
        if not name or not path:
            raise UsageError(
                f"--lora {text}: give NAME=DIR, the name that requests have for the adapter of a directory"
            )
        yield name, path


def check_lengths(arguments, config, positions):
    """Raise UserError unless a model with so many rows of positions can serve what the flags allow."""
    from glm.decoding.generation_config import check_positions

    check_positions(positions, arguments.src_length, config.max_new_tokens)


def decoding_of(engine, arguments, config, binding=None, adapted=False):
    """What an engine.Engine decodes by: prompts that come and go in the searches of an engines.OnnxEngine, or batches.
    Raises UserError."""
    from glm.inference.continuous import Continuous
    from glm.serving.closed import Closed

    budget = arguments.max_batch_size * (arguments.src_length + config.new_tokens_a_prompt)
    joins = hasattr(engine, "open_search")
    if arguments.batching == "continuous" and not joins:
        raise UserError("--batching continuous: what decodes here is one call for a batch; leave it out")
    if joins and arguments.batching != "closed":
        return Continuous(engine.open_search, engine.special, budget, binding, adapted)

    def decode(prompts, config, rows, on_token):
        return engine.run(prompts, config, rows, on_token if config.num_beams == 1 else None)

    return Closed(decode, engine.special, budget, binding)


def build(arguments, decoding):
    """The exchanges.Service that the flags ask for; its engine is not yet started. Raises UserError."""
    from glm.serving.catalogue import Catalogue
    from glm.serving.connections import Connections
    from glm.serving.engine import Engine
    from glm.serving.exchanges import Service
    from glm.serving.keys import keys_of
    from glm.serving.origins import Origins
    from glm.serving.requests import Limits, Offer, Refusal

    for origin in arguments.allowed_origins or ():
        if origin != "*" and "://" not in origin:
            raise UserError(f"--allowed_origins {origin}: an origin has a scheme, as in https://{origin}")
    keys = keys_of(arguments.api_key_file)
    served = program_of(arguments) if arguments.model_path else model_of(arguments, decoding)
    limits = Limits(
        arguments.max_prompts_per_request,
        arguments.max_prompt_characters,
        arguments.src_length,
        arguments.max_num_beams,
    )
    offer = Offer(served.tokenizer, served.config, limits, served.fixed, served.binding)
    catalogue = Catalogue(arguments.served_model_name or served.name, offer, served.adapters)
    for name, path in adapters_of(arguments.lora):
        try:
            catalogue.load(name, path)
        except Refusal as error:
            raise UserError(f"--lora {name}={path}: {error.message}") from None
    return Service(
        Engine(served.load),
        catalogue,
        kinds=served.kinds,
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
        origins=Origins([*(arguments.allowed_hosts or ()), arguments.host], arguments.allowed_origins or ()),
        keys=keys,
    )


def certificate_of(arguments):
    """Files of the TLS certificate and its key that the flags name, () without any. Raises UserError."""
    if arguments.ssl_certfile is None:
        return ()
    import ssl

    files = [arguments.ssl_certfile, *filter(None, [arguments.ssl_keyfile])]
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(*files, password=lambda: "")
    except (OSError, ValueError) as error:
        named = " ".join(f"--ssl_{name} {file}" for name, file in zip(("certfile", "keyfile"), files, strict=False))
        raise UserError(f"{named}: no certificate with its key as PEM ({one_line(error)})") from None
    return files


def is_of_this_machine(listener):
    """Whether only this machine can reach a listening socket."""
    import ipaddress

    return ipaddress.ip_address(listener.getsockname()[0].partition("%")[0]).is_loopback


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
    certificate = certificate_of(arguments)
    listener = listen(arguments.host, arguments.port)
    service = build(arguments, decoding)
    import asyncio

    from glm.serving import logs
    from glm.serving.app import serve

    logs.set_up()
    if service.keys is None and not is_of_this_machine(listener):
        note("anybody who reaches this machine may use the model: give --api_key_file, or listen on 127.0.0.1")
    say(f"serving on http{'s' if certificate else ''}://{place_of(arguments.host, listener)}")
    try:
        asyncio.run(serve(service, listener, arguments.stop_timeout, certificate))
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
