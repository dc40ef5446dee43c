# The daemon as a container. scripts/images --daemon gathers the wheels (build/image) and builds this; by hand:
#
#   scripts/images --wheels && docker build --build-arg BASE=debian:bookworm-slim -t sidegate .
#
# BASE is Debian 12: the wheels are those for its Python. docs/container.md says how to run it.
ARG BASE=debian:bookworm-slim

FROM ${BASE} AS system
# What the daemon runs: ss and ip (iproute2), its firewall rules and their flows; setns by nsenter is in every Debian.
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
      conntrack iproute2 iptables nftables python3 \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /var/log/apt /var/log/dpkg.log /usr/share/doc/* /usr/share/man/* \
 && useradd --system --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin sidegate-worker

FROM system AS dependencies
COPY build/image/dependencies /wheels
RUN python3 -m venv --without-pip /opt/sidegate \
 && /opt/sidegate/bin/python /wheels/pip.zip/pip install --no-index --find-links /wheels --no-deps --require-hashes \
      --requirement /wheels/requirements.txt

FROM dependencies AS program
COPY build/image/program /program
RUN /opt/sidegate/bin/python /wheels/pip.zip/pip install --no-index --no-deps /program/*.whl

FROM system
COPY --from=program /opt/sidegate /opt/sidegate
# legacy: for hosts whose Docker uses iptables-legacy, to be put into PATH there.
RUN ln -s /opt/sidegate/bin/sidegate /usr/local/bin/sidegate \
 && mkdir /usr/local/legacy \
 && for name in iptables iptables-restore; do ln -s /usr/sbin/$name-legacy /usr/local/legacy/$name; done
# A few milliseconds each: no site-packages and nothing of ours is imported, only the control socket is asked.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s \
  CMD ["/usr/bin/python3", "-ISB", "/opt/sidegate/lib/python3.11/site-packages/sidegate/health.py"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["sidegate"]
CMD ["run"]
