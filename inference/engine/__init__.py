import os

# How long one of the model's threads spins while it waits for the others; read when torch is loaded, so it stands here.
# libgomp's own choice is the fastest on an idle machine, and ten times slower as soon as one other process is busy
# (measured on two cores: 25 tokens/s against 1.5, where 1,000 turns gave 19 and 14). A web server on the same machine,
# or a browser, is such a process.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
