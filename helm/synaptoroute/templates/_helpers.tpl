{{/* Names, labels, and parts that several pods share. */}}

{{- define "synaptoroute.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "synaptoroute.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "synaptoroute.name" . -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Labels that never change during the life of a release; call with (list $ "component"). */}}
{{- define "synaptoroute.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ include "synaptoroute.name" $root }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{- define "synaptoroute.labels" -}}
{{- $root := index . 0 -}}
{{ include "synaptoroute.selector" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
app.kubernetes.io/part-of: synaptoroute
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
{{- with $root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Namespace of every object; of the release, unless the values name another one. */}}
{{- define "synaptoroute.namespace" -}}
{{- default .Release.Namespace .Values.namespaceOverride -}}
{{- end -}}

{{/*
Metadata of an object: (list $ name component), then annotations and labels of its own, if any.
*/}}
{{- define "synaptoroute.metadata" -}}
{{- $root := index . 0 -}}
{{- $annotations := deepCopy $root.Values.commonAnnotations -}}
{{- $labels := include "synaptoroute.labels" (list $root (index . 2)) | fromYaml -}}
{{- if gt (len .) 3 }}{{- $annotations = mergeOverwrite $annotations (index . 3 | default dict) -}}{{ end -}}
{{- if gt (len .) 4 }}{{- $labels = mergeOverwrite $labels (index . 4 | default dict) -}}{{ end -}}
name: {{ index . 1 }}
namespace: {{ include "synaptoroute.namespace" $root }}
labels: {{- toYaml $labels | nindent 2 }}
{{- with $annotations }}
annotations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/*
repository@digest or repository:tag; call with (list $ .Values.x.image).  A registry for all
images takes the place of the one that the repository names.
*/}}
{{- define "synaptoroute.image" -}}
{{- $root := index . 0 -}}
{{- $image := index . 1 -}}
{{- $repository := $image.repository -}}
{{- with dig "imageRegistry" "" $root.Values.global -}}
{{- $parts := splitList "/" $repository -}}
{{- if and (gt (len $parts) 1) (regexMatch "[.:]|^localhost$" (first $parts)) }}{{ $parts = rest $parts }}{{ end -}}
{{- $repository = printf "%s/%s" (trimSuffix "/" .) (join "/" $parts) -}}
{{- end -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $repository $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $repository (default $root.Chart.AppVersion $image.tag) -}}
{{- end -}}
{{- end -}}

{{/* Name of a component's service account: (list $ "coordinator"). */}}
{{- define "synaptoroute.serviceAccount" -}}
{{- $root := index . 0 -}}
{{- $component := index . 1 -}}
{{- $account := (get $root.Values $component).serviceAccount -}}
{{- if $account.create -}}
{{- default (printf "%s-%s" (include "synaptoroute.fullname" $root) $component) $account.name -}}
{{- else -}}
{{- default "default" $account.name -}}
{{- end -}}
{{- end -}}

{{/*
What the pods of all components have in common: (list $ "coordinator" grace-period-seconds).  The
default security contexts pass Pod Security `restricted`.
*/}}
{{- define "synaptoroute.pod" -}}
{{- $root := index . 0 -}}
{{- $component := index . 1 -}}
{{- $v := get $root.Values $component -}}
serviceAccountName: {{ include "synaptoroute.serviceAccount" (list $root $component) }}
automountServiceAccountToken: false
enableServiceLinks: false
terminationGracePeriodSeconds: {{ index . 2 }}
securityContext: {{- include "synaptoroute.podSecurity" (list $root $v) | nindent 2 }}
{{- include "synaptoroute.pullSecrets" $root }}
{{- range $name := list "nodeSelector" "tolerations" "affinity" "hostAliases" "dnsConfig" }}
{{- with get $v $name }}
{{ $name }}: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- range $name := list "priorityClassName" "runtimeClassName" "schedulerName" "dnsPolicy" }}
{{- with get $v $name }}
{{ $name }}: {{ . }}
{{- end }}
{{- end }}
{{- with $v.topologySpreadConstraints }}
topologySpreadConstraints: {{- toYaml . | nindent 2 }}
{{- else }}
{{- if ne $component "redis" }}
topologySpreadConstraints:
  {{- range ternary (list "kubernetes.io/hostname" "topology.kubernetes.io/zone") (list "kubernetes.io/hostname") (eq $component "node") }}
  - maxSkew: 1
    topologyKey: {{ . }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{- include "synaptoroute.selector" (list $root $component) | nindent 8 }}
  {{- end }}
{{- end }}
{{- end }}
{{- with $v.initContainers }}
initContainers: {{- tpl (toYaml .) $root | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "synaptoroute.pullSecrets" -}}
{{- $names := list -}}
{{- range concat (dig "imagePullSecrets" list .Values.global) .Values.imagePullSecrets -}}
{{- $names = append $names (kindIs "string" . | ternary (dict "name" .) .) -}}
{{- end -}}
{{- with uniq $names }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Labels and annotations of a pod: (list $ "coordinator" annotations). */}}
{{- define "synaptoroute.podMetadata" -}}
{{- $v := get (index . 0).Values (index . 1) -}}
labels:
  {{- include "synaptoroute.labels" (list (index . 0) (index . 1)) | nindent 2 }}
  {{- with $v.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
annotations: {{- mergeOverwrite (index . 2) (deepCopy $v.podAnnotations) | toYaml | nindent 2 }}
{{- end -}}

{{/* A Service of the values, without ports and selector. */}}
{{- define "synaptoroute.serviceSpec" -}}
type: {{ .type }}
{{- range $name := list "clusterIP" "loadBalancerClass" "loadBalancerIP" "externalTrafficPolicy" "internalTrafficPolicy" "ipFamilyPolicy" }}
{{- with get $ $name }}
{{ $name }}: {{ . }}
{{- end }}
{{- end }}
{{- range $name := list "loadBalancerSourceRanges" "ipFamilies" }}
{{- with get $ $name }}
{{ $name }}: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "synaptoroute.nodePort" -}}
{{- with .nodePort }}, nodePort: {{ . }}{{ end -}}
{{- end -}}

{{/* Limits of evictions: the values of a PodDisruptionBudget, and (list $ values). */}}
{{- define "synaptoroute.budget" -}}
{{- $root := index . 0 -}}
{{- $v := index . 1 -}}
{{- if not (kindIs "invalid" $v.minAvailable) -}}
minAvailable: {{ $v.minAvailable }}
{{- else if kindIs "invalid" $v.maxUnavailable -}}
maxUnavailable: 1
{{- else -}}
maxUnavailable: {{ $v.maxUnavailable }}
{{- end }}
{{- if and $v.unhealthyPodEvictionPolicy (semverCompare ">=1.27-0" $root.Capabilities.KubeVersion.Version) }}
unhealthyPodEvictionPolicy: {{ $v.unhealthyPodEvictionPolicy }}
{{- end }}
{{- end -}}

{{/* Port of the Service that clients use: HAProxy's, if it runs. */}}
{{- define "synaptoroute.doorPort" -}}
{{- if .Values.haproxy.enabled -}}
{{- default .Values.service.port .Values.haproxy.service.port -}}
{{- else -}}
{{- .Values.service.port -}}
{{- end -}}
{{- end -}}

{{/* Security context of a pod and of a container: (list $ values-of-the-component). */}}
{{- define "synaptoroute.podSecurity" -}}
{{- $own := dig "podSecurityContext" dict (index . 1) -}}
{{- mergeOverwrite (deepCopy (index . 0).Values.securityContext.pod) (deepCopy $own) | toYaml -}}
{{- end -}}

{{- define "synaptoroute.containerSecurity" -}}
{{- $own := dig "containerSecurityContext" dict (index . 1) -}}
{{- mergeOverwrite (deepCopy (index . 0).Values.securityContext.container) (deepCopy $own) | toYaml -}}
{{- end -}}

{{- define "synaptoroute.hasRedis" -}}
{{- if or .Values.redis.enabled .Values.externalRedis.url }}true{{ end -}}
{{- end -}}

{{/* URL of Redis; the password is in a file, never here. */}}
{{- define "synaptoroute.redisUrl" -}}
{{- if .Values.redis.enabled -}}
redis://{{ include "synaptoroute.fullname" . }}-redis:6379/0
{{- else -}}
{{- $user := .Values.externalRedis.username -}}
{{- if $user -}}
{{- .Values.externalRedis.url | replace "://" (printf "://%s@" (urlquery $user)) -}}
{{- else -}}
{{- .Values.externalRedis.url -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "synaptoroute.redisSecret" -}}
{{- if .Values.redis.enabled -}}
{{- default (printf "%s-redis" (include "synaptoroute.fullname" .)) .Values.redis.existingSecret -}}
{{- else -}}
{{- .Values.externalRedis.existingSecret -}}
{{- end -}}
{{- end -}}

{{- define "synaptoroute.redisPasswordKey" -}}
{{- if .Values.redis.enabled }}{{ .Values.redis.passwordKey }}{{ else }}{{ .Values.externalRedis.passwordKey }}{{ end -}}
{{- end -}}

{{- define "synaptoroute.apiKeysSecret" -}}
{{- default (printf "%s-api-keys" (include "synaptoroute.fullname" .)) .Values.auth.existingSecret -}}
{{- end -}}

{{/* Key of the API keys' Secret with a plain key, for the coordinator and `helm test`. */}}
{{- define "synaptoroute.plainKey" -}}
{{- if .Values.auth.existingSecret }}{{ .Values.auth.plainKey }}{{ else }}admin-key{{ end -}}
{{- end -}}

{{/* Secret with the cluster secret; empty for none. */}}
{{- define "synaptoroute.signingSecret" -}}
{{- if .Values.signing.existingSecret -}}
{{- .Values.signing.existingSecret -}}
{{- else if and .Values.signing.create (include "synaptoroute.hasRedis" .) -}}
{{- printf "%s-cluster-secret" (include "synaptoroute.fullname" .) -}}
{{- end -}}
{{- end -}}

{{/*
Secret with the genesis and the founders' private keys; empty for none.  It is made for a new
release only: the nodes of an older one have keys that no template knows, and pinning others
would refuse every majority.  What an uninstalled release has left counts as an older one.
*/}}
{{- define "synaptoroute.genesisSecret" -}}
{{- $genesis := .Values.trust.genesis -}}
{{- $name := include "synaptoroute.fullname" . -}}
{{- $own := printf "%s-identities" $name -}}
{{- $space := include "synaptoroute.namespace" . -}}
{{- if not (include "synaptoroute.hasRedis" .) -}}
{{- else if $genesis.existingSecret -}}
{{- $genesis.existingSecret -}}
{{- else if and $genesis.enabled (include "synaptoroute.signingSecret" .) -}}
{{- if lookup "v1" "Secret" $space $own -}}
{{- $own -}}
{{- else if not (or
      .Release.IsUpgrade
      .Values.signing.existingSecret
      .Values.node.persistence.existingClaim
      (lookup "apps/v1" "StatefulSet" $space $name)
      (lookup "v1" "Secret" $space (printf "%s-cluster-secret" $name))
      (lookup "v1" "PersistentVolumeClaim" $space (printf "data-%s-0" $name))
      (lookup "v1" "PersistentVolumeClaim" $space (printf "data-%s-redis-0" $name))) -}}
{{- $own -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/*
Whether entries without a signature are accepted.  A release that got its secret by an upgrade
has such entries in its log, and nodes that sign nothing until they are replaced; from level 2 on
(`synaptoroute cluster finalize`) nodes refuse them whatever this says.
*/}}
{{- define "synaptoroute.allowUnsigned" -}}
{{- if or .Values.signing.allowUnsigned .Values.signing.existingSecret -}}
{{- .Values.signing.allowUnsigned -}}
{{- else -}}
{{- $name := include "synaptoroute.signingSecret" . -}}
{{- $present := lookup "v1" "Secret" (include "synaptoroute.namespace" .) $name | default dict -}}
{{- ternary (hasKey (dig "data" dict $present) "introduced-by-upgrade") .Release.IsUpgrade (not (empty $present)) -}}
{{- end -}}
{{- end -}}

{{/*
Names that the Host header may have: those of the Services, of the outside, and the values'.
Names without a dot and IP addresses, by which probes ask, always pass.
*/}}
{{- define "synaptoroute.allowedHosts" -}}
{{- $v := .Values -}}
{{- $space := include "synaptoroute.namespace" . -}}
{{- $name := include "synaptoroute.fullname" . -}}
{{- $hosts := list -}}
{{- range $service := list $name (printf "%s-headless" $name) (printf "%s-haproxy" $name) (printf "%s-coordinator" $name) -}}
{{- range $suffix := list $space (printf "%s.svc" $space) (printf "%s.svc.%s" $space $v.clusterDomain) -}}
{{- $hosts = append $hosts (printf "%s.%s" $service $suffix) -}}
{{- if hasSuffix "-headless" $service -}}
{{- $hosts = append $hosts (printf "*.%s.%s" $service $suffix) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if $v.ingress.enabled -}}{{- $hosts = concat $hosts $v.ingress.hosts -}}{{- end -}}
{{- if $v.httpRoute.enabled -}}{{- $hosts = concat $hosts $v.httpRoute.hostnames -}}{{- end -}}
{{- if $v.coordinator.ingress.enabled -}}{{- $hosts = concat $hosts $v.coordinator.ingress.hosts -}}{{- end -}}
{{- concat $hosts $v.http.allowedHosts | uniq | join "," -}}
{{- end -}}

{{/* Proxies that name the client: given ones, or any in a private network if the chart has one in front. */}}
{{- define "synaptoroute.trustedProxies" -}}
{{- if .Values.http.trustedProxies -}}
{{- join "," .Values.http.trustedProxies -}}
{{- else if or .Values.haproxy.enabled .Values.ingress.enabled .Values.httpRoute.enabled .Values.coordinator.ingress.enabled -}}
10.0.0.0/8,172.16.0.0/12,192.168.0.0/16,100.64.0.0/10,fc00::/7
{{- end -}}
{{- end -}}

{{/*
Settings that nodes and coordinators share: access to the log, and API keys.  Call
with (list $ "SYNAPTOROUTE_") or (list $ "SYNAPTOROUTE_COORDINATOR_").
*/}}
{{- define "synaptoroute.logSettings" -}}
{{- $v := (index . 0).Values -}}
{{- $root := index . 0 -}}
{{- $env := index . 1 -}}
{{- if include "synaptoroute.hasRedis" $root }}
{{ $env }}REDIS_URL: {{ include "synaptoroute.redisUrl" $root | quote }}
{{ $env }}NAMESPACE: {{ $v.logNamespace | quote }}
{{- if include "synaptoroute.redisSecret" $root }}
{{ $env }}REDIS_PASSWORD_FILE: /run/secrets/synaptoroute/redis/password
{{- end }}
{{- if not $v.redis.enabled }}
{{- if $v.externalRedis.tls.caSecret }}
{{ $env }}REDIS_CA_FILE: /run/secrets/synaptoroute/redis-ca/ca.crt
{{- end }}
{{- if $v.externalRedis.tls.clientSecret }}
{{ $env }}REDIS_CERT_FILE: /run/secrets/synaptoroute/redis-client/tls.crt
{{ $env }}REDIS_KEY_FILE: /run/secrets/synaptoroute/redis-client/tls.key
{{- end }}
{{- with $v.externalRedis.sentinel }}
{{- if .username }}
{{ $env }}REDIS_SENTINEL_USER: {{ .username | quote }}
{{- end }}
{{- if .existingSecret }}
{{ $env }}REDIS_SENTINEL_PASSWORD_FILE: /run/secrets/synaptoroute/redis-sentinel/password
{{- end }}
{{- if .tls }}
{{ $env }}REDIS_SENTINEL_TLS: "true"
{{- end }}
{{- end }}
{{- end }}
{{- if include "synaptoroute.signingSecret" $root }}
{{ $env }}SIGNING_KEYS_FILE: /run/secrets/synaptoroute/signing/keys
{{ $env }}ALLOW_UNSIGNED: {{ include "synaptoroute.allowUnsigned" $root | quote }}
{{- end }}
{{- if include "synaptoroute.genesisSecret" $root }}
{{ $env }}GENESIS_FILE: /run/secrets/synaptoroute/genesis/genesis.json
{{- end }}
{{- if $v.peers.existingSecret }}
{{ $env }}PEER_SECRET_FILE: /run/secrets/synaptoroute/peers/secret
{{- end }}
{{- end }}
{{- if $v.tls.enabled }}
{{ $env }}TLS_CERT: /run/secrets/synaptoroute/tls/tls.crt
{{ $env }}TLS_KEY: /run/secrets/synaptoroute/tls/tls.key
{{ $env }}{{ ternary "TLS_CLIENT_CA" "PEER_CA_FILE" $v.tls.mutual }}: /run/secrets/synaptoroute/tls/ca.crt
{{- if $v.tls.allowPlainPeers }}
{{ $env }}ALLOW_PLAIN_PEERS: "true"
{{- end }}
{{- end }}
{{- if or $v.auth.insecure $v.http.allowedHosts }}
{{ $env }}ALLOWED_HOSTS: {{ include "synaptoroute.allowedHosts" $root | quote }}
{{- end }}
{{- with include "synaptoroute.trustedProxies" $root }}
{{ $env }}TRUSTED_PROXIES: {{ . | quote }}
{{- end }}
{{- if $v.auth.insecure }}
{{ $env }}INSECURE: "true"
{{- else }}
{{ $env }}API_KEYS_FILE: /run/secrets/synaptoroute/api-keys/keys
{{- end }}
{{- end -}}

{{/* Directories are mounted, never single files: a mounted file would not follow its Secret. */}}
{{- define "synaptoroute.secretMounts" -}}
{{- if .Values.tls.enabled }}
- {name: tls, mountPath: /run/secrets/synaptoroute/tls, readOnly: true}
{{- end }}
{{- if and .Values.tracing.endpoint .Values.tracing.headersSecret }}
- {name: otlp-headers, mountPath: /run/secrets/synaptoroute/otlp, readOnly: true}
{{- end }}
{{- if not .Values.auth.insecure }}
- {name: api-keys, mountPath: /run/secrets/synaptoroute/api-keys, readOnly: true}
{{- end }}
{{- if include "synaptoroute.hasRedis" . }}
{{- if include "synaptoroute.redisSecret" . }}
- {name: redis-password, mountPath: /run/secrets/synaptoroute/redis, readOnly: true}
{{- end }}
{{- if include "synaptoroute.signingSecret" . }}
- {name: signing-keys, mountPath: /run/secrets/synaptoroute/signing, readOnly: true}
{{- end }}
{{- if include "synaptoroute.genesisSecret" . }}
- {name: genesis, mountPath: /run/secrets/synaptoroute/genesis, readOnly: true}
{{- end }}
{{- if .Values.peers.existingSecret }}
- {name: peer-secret, mountPath: /run/secrets/synaptoroute/peers, readOnly: true}
{{- end }}
{{- if not .Values.redis.enabled }}
{{- if .Values.externalRedis.tls.caSecret }}
- {name: redis-ca, mountPath: /run/secrets/synaptoroute/redis-ca, readOnly: true}
{{- end }}
{{- if .Values.externalRedis.tls.clientSecret }}
- {name: redis-client, mountPath: /run/secrets/synaptoroute/redis-client, readOnly: true}
{{- end }}
{{- if .Values.externalRedis.sentinel.existingSecret }}
- {name: redis-sentinel, mountPath: /run/secrets/synaptoroute/redis-sentinel, readOnly: true}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "synaptoroute.secretVolumes" -}}
{{- if .Values.tls.enabled }}
{{ include "synaptoroute.tlsVolume" . }}
{{- end }}
{{- if and .Values.tracing.endpoint .Values.tracing.headersSecret }}
- name: otlp-headers
  secret:
    secretName: {{ .Values.tracing.headersSecret }}
    defaultMode: 0440
    items: [{key: headers, path: headers}]
{{- end }}
{{- if not .Values.auth.insecure }}
- name: api-keys
  secret:
    secretName: {{ include "synaptoroute.apiKeysSecret" . }}
    defaultMode: 0440
    items: [{key: {{ .Values.auth.key | quote }}, path: keys}]
{{- end }}
{{- if include "synaptoroute.hasRedis" . }}
{{- with include "synaptoroute.redisSecret" . }}
- name: redis-password
  secret:
    secretName: {{ . }}
    defaultMode: 0440
    items: [{key: {{ include "synaptoroute.redisPasswordKey" $ | quote }}, path: password}]
{{- end }}
{{- with include "synaptoroute.signingSecret" . }}
- name: signing-keys
  secret:
    secretName: {{ . }}
    defaultMode: 0440
    items: [{key: {{ $.Values.signing.key | quote }}, path: keys}]
{{- end }}
{{- with include "synaptoroute.genesisSecret" . }}
- name: genesis
  secret:
    secretName: {{ . }}
    defaultMode: 0440
    items: [{key: genesis.json, path: genesis.json}]
{{- end }}
{{- with .Values.peers.existingSecret }}
- name: peer-secret
  secret:
    secretName: {{ . }}
    defaultMode: 0440
    items: [{key: {{ $.Values.peers.key | quote }}, path: secret}]
{{- end }}
{{- if not .Values.redis.enabled }}
{{- with .Values.externalRedis.sentinel }}
{{- if .existingSecret }}
- name: redis-sentinel
  secret:
    secretName: {{ .existingSecret }}
    defaultMode: 0440
    items: [{key: {{ .passwordKey | quote }}, path: password}]
{{- end }}
{{- end }}
{{- with .Values.externalRedis.tls }}
{{- if .caSecret }}
- name: redis-ca
  secret:
    secretName: {{ .caSecret }}
    defaultMode: 0440
    items: [{key: {{ .caKey | quote }}, path: ca.crt}]
{{- end }}
{{- if .clientSecret }}
- name: redis-client
  secret:
    secretName: {{ .clientSecret }}
    defaultMode: 0440
    items: [{key: {{ .certKey | quote }}, path: tls.crt}, {key: {{ .keyKey | quote }}, path: tls.key}]
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{/* One certificate for all components; the names of the files do not depend on the Secret. */}}
{{- define "synaptoroute.tlsVolume" -}}
- name: tls
  secret:
    secretName: {{ include "synaptoroute.tlsSecret" . }}
    defaultMode: 0440
    items:
      - {key: {{ .Values.tls.certKey | quote }}, path: tls.crt}
      - {key: {{ .Values.tls.keyKey | quote }}, path: tls.key}
      - {key: {{ .Values.tls.caKey | quote }}, path: ca.crt}
{{- end -}}

{{- define "synaptoroute.tlsSecret" -}}
{{- default (printf "%s-tls" (include "synaptoroute.fullname" .)) .Values.tls.existingSecret -}}
{{- end -}}

{{- define "synaptoroute.scheme" -}}
{{- ternary "https" "http" .Values.tls.enabled -}}
{{- end -}}

{{/* Scheme of a probe, to be written into an httpGet. */}}
{{- define "synaptoroute.probeScheme" -}}
{{- if .Values.tls.enabled }}, scheme: HTTPS{{ end -}}
{{- end -}}

{{/* What speaks on a port, for meshes and load balancers; to be written into a port. */}}
{{- define "synaptoroute.appProtocol" -}}
{{- if .Values.tls.enabled }}, appProtocol: https{{ end -}}
{{- end -}}

{{/*
Nodes that create the log: the value, or that of the first install, or the number of voters in
a genesis that is there already (nobody else can found the log), or the node count.
*/}}
{{- define "synaptoroute.bootstrapExpect" -}}
{{- $count := ternary .Values.autoscaling.minReplicas .Values.node.replicaCount .Values.autoscaling.enabled -}}
{{- $present := lookup "apps/v1" "StatefulSet" (include "synaptoroute.namespace" .) (include "synaptoroute.fullname" .) -}}
{{- $kept := dig "metadata" "annotations" "synaptoroute.io/bootstrap-expect" "" (default dict $present) -}}
{{- $identities := dict -}}
{{- with include "synaptoroute.genesisSecret" . -}}
{{- $identities = lookup "v1" "Secret" (include "synaptoroute.namespace" $) . | default dict -}}
{{- end -}}
{{- $genesis := dig "data" "genesis.json" "" $identities | b64dec | default "{}" | fromJson -}}
{{- $voters := dig "voters" dict $genesis | len -}}
{{- .Values.node.bootstrapExpect | default $kept | default $voters | default $count | int | min 99 -}}
{{- end -}}

{{/* A value as it was written: whole numbers without the exponent of YAML floats. */}}
{{- define "synaptoroute.plain" -}}
{{- if and (kindIs "float64" .) (eq (floor .) .) }}{{ int64 . }}{{ else }}{{ . }}{{ end -}}
{{- end -}}

{{/*
Variables of OpenTelemetry, for a prefix of settings; nothing without an endpoint.
*/}}
{{- define "synaptoroute.tracing" -}}
{{- $prefix := index . 1 }}
{{- with (index . 0).Values.tracing }}
{{- if .endpoint }}
- name: OTEL_EXPORTER_OTLP_ENDPOINT
  value: {{ .endpoint | quote }}
- name: OTEL_TRACES_SAMPLER
  value: parentbased_traceidratio
- name: OTEL_TRACES_SAMPLER_ARG
  value: {{ .sampleRatio | quote }}
{{- if .headersSecret }}
- name: {{ $prefix }}OTLP_HEADERS_FILE
  value: /run/secrets/synaptoroute/otlp/headers
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/*
Ports of an external Redis: those of its URL and of its replicas' URLs, which name Sentinels or
servers, and of the values.  Behind Sentinels a server has the usual port, unless the values name
another.
*/}}
{{- define "synaptoroute.redisPorts" -}}
{{- $ports := list -}}
{{- $hasSentinel := false -}}
{{- range $url := prepend .Values.externalRedis.replicaUrls .Values.externalRedis.url -}}
{{- $isSentinel := contains "+sentinel://" $url -}}
{{- $hasSentinel = or $hasSentinel $isSentinel -}}
{{- range splitList "," (regexReplaceAll "^[a-z+]+://([^@/]*@)?([^/?]*).*$" $url "${2}") -}}
{{- $ports = append $ports (regexFind "[0-9]+$" (regexFind ":[0-9]+$" .) | default (ternary "26379" "6379" $isSentinel)) -}}
{{- end -}}
{{- end -}}
{{- range .Values.networkPolicy.redisPorts }}{{ $ports = append $ports (toString (int .)) }}{{ end -}}
{{- if and $hasSentinel (not .Values.networkPolicy.redisPorts) }}{{ $ports = append $ports "6379" }}{{ end -}}
{{- $ports | uniq | join "," -}}
{{- end -}}

{{/*
Node count: absent where an autoscaler chooses it and the chart cannot see what it chose.  Left out
of an existing StatefulSet it would be 1.
*/}}
{{- define "synaptoroute.replicas" -}}
{{- if not .Values.autoscaling.enabled -}}
{{- .Values.node.replicaCount -}}
{{- else -}}
{{- $name := include "synaptoroute.fullname" . -}}
{{- $present := lookup "apps/v1" "StatefulSet" (include "synaptoroute.namespace" .) $name | default dict -}}
{{- dig "spec" "replicas" .Values.autoscaling.replicas $present | default "" -}}
{{- end -}}
{{- end -}}
