# The server with all its packages; nothing is fetched when a container starts, except a model it is told to.
#   docker build -t sdserver .                                   for NVIDIA GPUs
#   docker build -t sdserver --build-arg EXTRAS= --build-arg SDSERVER_TORCH_INDEX=URL .   torch from URL
FROM python:3.11-slim-bookworm

WORKDIR /usr/src/app

ARG EXTRAS=cuda
ARG SDSERVER_TORCH_INDEX=
COPY pyproject.toml constraints.txt start.sh ./
COPY scripts/ scripts/
RUN PIP_NO_CACHE_DIR=1 python scripts/bootstrap.py install $EXTRAS

COPY LICENSE NOTICE ./
COPY models/ models/
COPY outputs/ outputs/
COPY sdserver/ sdserver/
RUN python -m compileall -q sdserver

# The image's defaults are a file, so that they hold even where a runtime drops the image's ENV.
RUN printf '%s\n' '# Defaults of the image; flags and SDSERVER_ variables come before them.' 'listen = true' > config.toml

# Any user may run the image: all may write what the server writes, and none may replace its code.
RUN mkdir -p output && chmod -R a+rwX models outputs output && chmod 1777 .
ENV HOME=/tmp PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 1000:0

EXPOSE 8000 8001
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=5s --start-period=30s --retries=3 CMD ["python", "-c", "import http.client, os; c = http.client.HTTPConnection('127.0.0.1', int(os.environ.get('SDSERVER_MAINTENANCE_PORT', '8001')), timeout=4); c.request('GET', '/live'); raise SystemExit(c.getresponse().status != 200)"]
ENTRYPOINT ["./start.sh"]
