"""A server for models: viewers and scripts share one machine's networks, and get what they would get alone.

=============== =======================================================================
``limits.py``   what is refused, and the refusal: a status, a reason, and when to try again
``tokens.py``   who may ask
``gate.py``     how many at once, how fast, how much: places, waiting, held bytes
``shared.py``   a model whose batches are filled by several requests
``figures.py``  Prometheus metrics
``work.py``     bytes in, prediction, bytes out; the part that runs in threads
``app.py``      the API, in FastAPI
``run.py``      the process: socket, TLS, uvicorn
=============== =======================================================================
"""
