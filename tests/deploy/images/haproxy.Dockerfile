# Stands in for the official image where no registry is reached: same user, same paths.
ARG BASE_IMAGE
FROM ${BASE_IMAGE}
RUN apt-get -qq update \
 && apt-get -qq install --yes --no-install-recommends haproxy wget >/dev/null \
 && rm -rf /var/lib/apt/lists/*
USER 99:99
STOPSIGNAL SIGUSR1
CMD ["haproxy", "-W", "-db", "-f", "/usr/local/etc/haproxy/haproxy.cfg"]
