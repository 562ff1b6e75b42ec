"""Many clients, one model.

monitoring       what a server counts, as Prometheus reads it
keys             API keys: who may ask
requests         what clients ask for → prompts and how to decode them, checked; no HTTP
catalogue        the models that requests may name: a base model, and adapters of it
schemas          the JSON of /generate, as pydantic models
openai_requests  the JSON of OpenAI's interface, and the prompts that it means
closed           batches that are decoded to their end, for decoders that take no single steps
engine           prompts of many clients → a decoder → pieces of text, in the one thread that owns the model; no HTTP
inbox            what happens to a request, from the engine's thread to the loop
origins          who may ask: the names that a server goes by
connections      limits below requests: how many connections, and how long one may say nothing
logs             what a server writes into its log, and how much of it
forms            what answers look like, whole or as events
openai_forms     the same, as OpenAI's interface has it
exchanges        one request from its arrival to its end: limits, time, leaving clients, the answer whole or as events
app              the engine over HTTP: the paths, the page, health and metrics, stopping in good order
review           a page to review pairs on, and its requests
web/             the pages: HTML, CSS and JavaScript as they are, without a build step
"""
