# syntax=docker/dockerfile:1
# What is inside, and why: docs/container.md and docs/decisions/.
#
# A tag moves when its Python or its Debian is mended, which is wanted. For a build that can be repeated octet by octet, name a
# digest: --build-arg PYTHON_IMAGE=docker.io/library/python:3.13-slim-trixie@sha256:…
ARG PYTHON_IMAGE=docker.io/library/python:3.13-slim-trixie


# ------------------------------------------------------------------------------------------------ wheels, and where they go
FROM ${PYTHON_IMAGE} AS build

# Where pip must ask elsewhere, give its configuration as a secret: --secret id=pip,src=pip.conf. It stays out of every layer.
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_NO_INPUT=1 \
    PIP_ROOT_USER_ACTION=ignore

# The tools that build: an environment of their own, since the image may have no pip, and what they are is locked too.
WORKDIR /build
COPY requirements-build.lock ./
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    python3 -m venv /tools \
 && /tools/bin/pip install --quiet --require-hashes --only-binary :all: --requirement requirements-build.lock

# Only wheels, each held against its hash: nothing is compiled here, so no compiler is needed, and nothing runs a setup script.
COPY requirements.lock ./
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    /tools/bin/pip download --quiet --require-hashes --only-binary :all: --requirement requirements.lock --dest /wheels

COPY pyproject.toml README.md LICENSE ./
COPY policies policies
COPY gateway gateway
RUN /tools/bin/pip wheel --quiet --no-index --no-deps --no-build-isolation --wheel-dir /wheels .

# Left out: what a wheel brings by mistake (the sources it was built from), native extensions of CEL that no policy can reach, and
# every command but ours. Bytecode is compiled here once: the root file system is read-only where this runs, so each start would
# compile anew. It is not held against its source at import (`unchecked-hash`): neither ever changes.
RUN python3 -m venv --without-pip /opt/portcullis \
 && /tools/bin/pip --python /opt/portcullis/bin/python install --quiet --no-index --no-deps --no-compile /wheels/*.whl \
 && packages="$(/opt/portcullis/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" \
 && rm -rf "${packages:?}/bazel-project" "${packages}/cel_expr_python/ext" \
 && find /opt/portcullis/bin -type f ! -name gateway -delete \
 && /opt/portcullis/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash "${packages}" \
 && /opt/portcullis/bin/gateway version


# ------------------------------------------------------------------------------------------------ what runs
FROM ${PYTHON_IMAGE}

# The base without pip and what could bring it back. The user has a number that other systems can name (`runAsUser`), and no shell.
RUN stdlib="$(python3 -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')" \
 && rm -rf "${stdlib:?}"/site-packages/* "${stdlib}/ensurepip" "${stdlib}/idlelib" "${stdlib}/turtledemo" \
      /usr/local/bin/pip* /usr/local/bin/idle* /usr/share/python-wheels \
 && groupadd --gid 10001 gateway \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/portcullis --shell /usr/sbin/nologin gateway \
 && install --directory --owner 10001 --group 10001 --mode 0750 /var/lib/portcullis

COPY --from=build /opt/portcullis /opt/portcullis

# The official images come without the bytecode of Python's own modules. Importing all once keeps that of the modules needed.
RUN /opt/portcullis/bin/python -c 'import gateway.cli.app, gateway.cli.serve, gateway.compose'

# The data directory lies within the volume: a volume that is mounted for a group belongs to somebody else, and is refused.
ENV PATH=/opt/portcullis/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    GATEWAY_DATA_DIR=/var/lib/portcullis/data

WORKDIR /var/lib/portcullis
VOLUME ["/var/lib/portcullis"]
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM

# The server is process 1: it has no children to reap, and drains on SIGTERM by itself, so no init is needed.
ENTRYPOINT ["gateway"]
CMD ["serve", "--host", "0.0.0.0"]

# Isolated (-I), since the working directory is writable; and by http.client, which asks no proxy that the environment names.
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 \
    CMD ["/opt/portcullis/bin/python", "-I", "-c", "from http.client import HTTPConnection as C; c = C('127.0.0.1', 8000, timeout=2); c.request('GET', '/healthz'); raise SystemExit(c.getresponse().status != 200)"]

# Last, so that another version changes no layer.
ARG VERSION=unreleased
ARG REVISION=unknown
ARG SOURCE=
LABEL org.opencontainers.image.title="Portcullis" \
      org.opencontainers.image.description="A secured WebSocket gateway: OAuth 2 tokens, role-based policies on every action, signed frames." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.source="${SOURCE}"
