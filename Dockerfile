# Images of the broker and of its HSM worker; no engine runs here.
#
#   docker build -t ostiary .                    the broker (last stage, the default)
#   docker build -t ostiary-demo --target demo . the same with SoftHSM, for trying things out
#
# The base image is named by version. Its digest could not be looked up where this file was written,
# so it is an argument: pass the one that you have checked, with its leading @, and the build is
# tied to those bytes.
#   docker build --build-arg PYTHON_DIGEST=@sha256:... -t ostiary .
ARG PYTHON_DIGEST=""

# 1. Everything that is only needed for building stays in this stage.
FROM python:3.12-slim-bookworm${PYTHON_DIGEST} AS build
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
WORKDIR /src
RUN python3 -m venv /opt/ostiary
COPY requirements.lock ./
RUN /opt/ostiary/bin/pip install --no-cache-dir --require-hashes --only-binary :all: -r requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY verifier/ verifier/
COPY broker/ broker/
COPY inference_runtime/ inference_runtime/
COPY ostiary/ ostiary/
COPY migrations/ migrations/
RUN /opt/ostiary/bin/pip install --no-cache-dir --no-deps --no-build-isolation . \
 && /opt/ostiary/bin/pip uninstall --yes hatchling editables pip

# 2. What runs: the interpreter, the environment, and a user that owns nothing but its home.
FROM python:3.12-slim-bookworm${PYTHON_DIGEST} AS runtime
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
RUN groupadd --gid 10001 ostiary \
 && useradd --uid 10001 --gid ostiary --no-create-home --home-dir /var/lib/ostiary --shell /usr/sbin/nologin ostiary \
 && install --directory --mode 0700 --owner ostiary --group ostiary /var/lib/ostiary
COPY --from=build /opt/ostiary /opt/ostiary
ENV PATH=/opt/ostiary/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    OSTIARY_HOME=/var/lib/ostiary
WORKDIR /var/lib/ostiary
USER 10001:10001

# 3. For trying things out: SoftHSM keeps its token in a folder of files, which is no HSM.
FROM runtime AS demo
USER 0:0
# hadolint ignore=DL3008
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends softhsm2 \
 && rm -rf /var/lib/apt/lists/*
USER 10001:10001
ENTRYPOINT ["ostiary"]
CMD ["demo"]

# 4. The broker. It talks to an HSM worker that runs elsewhere, as another user, over a unix socket.
FROM runtime AS broker
EXPOSE 8420
HEALTHCHECK --interval=30s --timeout=5s --start-period=20s --retries=3 \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8420/health', timeout=4)"]
ENTRYPOINT ["ostiary", "broker", "serve"]
