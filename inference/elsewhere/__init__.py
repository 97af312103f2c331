"""An engine that runs elsewhere (vLLM, SGLang, any OpenAI-compatible server), served as if it were here.

It imports neither Django nor torch. `model.RemoteModel` is what a worker serves; one event loop on one thread holds all
its connections.
"""
