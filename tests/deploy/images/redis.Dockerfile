# Stands in for the official image where no registry is reached: same user, same paths.
ARG BASE_IMAGE
FROM ${BASE_IMAGE}
RUN apt-get -qq update \
 && apt-get -qq install --yes --no-install-recommends redis-server redis-tools >/dev/null \
 && rm -rf /var/lib/apt/lists/* \
 && install -d -o 999 -g 1000 /data
USER 999:1000
WORKDIR /data
VOLUME ["/data"]
CMD ["redis-server"]
