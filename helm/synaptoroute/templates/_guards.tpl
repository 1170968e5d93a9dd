{{/* Contradictions that a schema cannot express; the message says what to change. */}}
{{- define "synaptoroute.guards" -}}
{{- $v := .Values -}}
{{- $many := or $v.autoscaling.enabled (gt (int $v.node.replicaCount) 1) -}}
{{- if and $v.redis.enabled $v.externalRedis.url -}}
{{- fail "redis.enabled and externalRedis.url exclude each other: set redis.enabled=false" -}}
{{- end -}}
{{- if and $many (not (include "synaptoroute.hasRedis" .)) -}}
{{- fail "more than one node needs Redis: set redis.enabled=true, or externalRedis.url, or node.replicaCount=1" -}}
{{- end -}}
{{- if and $many $v.node.persistence.existingClaim -}}
{{- fail "node.persistence.existingClaim is one volume, and nodes must not share a database: leave it empty or set node.replicaCount=1" -}}
{{- end -}}
{{- if contains "@" (prepend $v.externalRedis.replicaUrls $v.externalRedis.url | join " ") -}}
{{- fail "externalRedis.url and externalRedis.replicaUrls must hold no credentials: use externalRedis.username and externalRedis.existingSecret" -}}
{{- end -}}
{{- if and $v.externalRedis.replicaUrls (not $v.externalRedis.url) -}}
{{- fail "externalRedis.replicaUrls needs externalRedis.url, the primary of these replicas" -}}
{{- end -}}
{{- $sentinel := $v.externalRedis.sentinel -}}
{{- $urls := prepend $v.externalRedis.replicaUrls $v.externalRedis.url | join " " -}}
{{- if and (or $sentinel.username $sentinel.existingSecret $sentinel.tls) (not (contains "+sentinel://" $urls)) -}}
{{- fail "externalRedis.sentinel needs a URL that begins with redis+sentinel:// or rediss+sentinel://" -}}
{{- end -}}
{{- if and $sentinel.username (not $sentinel.existingSecret) -}}
{{- fail "externalRedis.sentinel.username needs a password: set externalRedis.sentinel.existingSecret" -}}
{{- end -}}
{{- if and $v.externalRedis.username (not $v.externalRedis.existingSecret) -}}
{{- fail "externalRedis.username needs a password: set externalRedis.existingSecret" -}}
{{- end -}}
{{- if and (or $v.externalRedis.tls.caSecret $v.externalRedis.tls.clientSecret) (not (or $sentinel.tls (regexMatch "\\brediss(\\+sentinel)?://" $urls))) -}}
{{- fail "externalRedis.tls needs a URL that begins with rediss:// or rediss+sentinel://, or externalRedis.sentinel.tls" -}}
{{- end -}}
{{- if and $v.coordinator.enabled (not (include "synaptoroute.hasRedis" .)) -}}
{{- fail "the coordinator needs Redis: set coordinator.enabled=false, or configure Redis" -}}
{{- end -}}
{{- if and (not (kindIs "invalid" $v.podDisruptionBudget.minAvailable)) (not (kindIs "invalid" $v.podDisruptionBudget.maxUnavailable)) -}}
{{- fail "podDisruptionBudget takes minAvailable or maxUnavailable, not both" -}}
{{- end -}}
{{- if and $v.autoscaling.enabled (gt (int $v.autoscaling.minReplicas) (int $v.autoscaling.maxReplicas)) -}}
{{- fail "autoscaling.minReplicas is above autoscaling.maxReplicas" -}}
{{- end -}}
{{- if and $v.autoscaling.enabled (not $v.autoscaling.targetCPUUtilizationPercentage) (not $v.autoscaling.targetMemoryUtilizationPercentage) (not $v.autoscaling.targetQueueSize) -}}
{{- fail "autoscaling needs a target: targetCPUUtilizationPercentage, targetMemoryUtilizationPercentage or targetQueueSize" -}}
{{- end -}}
{{- $nodes := ternary $v.autoscaling.minReplicas $v.node.replicaCount $v.autoscaling.enabled -}}
{{- if gt (int $v.node.bootstrapExpect) (int $nodes) -}}
{{- fail "node.bootstrapExpect is above the node count: the log would never be created" -}}
{{- end -}}
{{- if le (int $v.node.terminationGracePeriodSeconds) (add $v.node.preStopSeconds $v.node.shutdownSeconds | int) -}}
{{- fail "node.terminationGracePeriodSeconds must be above preStopSeconds and shutdownSeconds together" -}}
{{- end -}}
{{- if and $v.auth.insecure $v.auth.existingSecret -}}
{{- fail "auth.insecure and auth.existingSecret exclude each other" -}}
{{- end -}}
{{- if and $v.signing.allowUnsigned (not $v.signing.existingSecret) (not $v.signing.create) -}}
{{- fail "signing.allowUnsigned needs signing.create or signing.existingSecret" -}}
{{- end -}}
{{- if and $v.tls.enabled (not $v.tls.existingSecret) (not $v.tls.certManager.enabled) -}}
{{- fail "tls.enabled needs tls.existingSecret, or tls.certManager.enabled" -}}
{{- end -}}
{{- if and $v.tls.certManager.enabled (or (not $v.tls.enabled) $v.tls.existingSecret) -}}
{{- fail "tls.certManager.enabled needs tls.enabled, and no tls.existingSecret" -}}
{{- end -}}
{{- if and $v.tls.certManager.enabled (not $v.tls.certManager.issuerRef.name) -}}
{{- fail "tls.certManager.enabled needs tls.certManager.issuerRef.name" -}}
{{- end -}}
{{- if and $v.tls.allowPlainPeers (not $v.tls.enabled) -}}
{{- fail "tls.allowPlainPeers needs tls.enabled" -}}
{{- end -}}
{{- if and $v.networkPolicy.redisPorts (not $v.externalRedis.url) -}}
{{- fail "networkPolicy.redisPorts needs externalRedis.url" -}}
{{- end -}}
{{- if and $v.coordinator.ingress.enabled (not (and $v.coordinator.enabled $v.coordinator.ingress.hosts)) -}}
{{- fail "coordinator.ingress.enabled needs coordinator.enabled and coordinator.ingress.hosts" -}}
{{- end -}}
{{- if and $v.autoscaling.replicas (not $v.autoscaling.enabled) -}}
{{- fail "autoscaling.replicas needs autoscaling.enabled; the node count is node.replicaCount" -}}
{{- end -}}
{{- range $component := list $v.service $v.haproxy.service $v.coordinator.service -}}
{{- if and (eq $component.type "ClusterIP") (or $component.nodePort $component.loadBalancerClass $component.loadBalancerIP $component.loadBalancerSourceRanges $component.externalTrafficPolicy) -}}
{{- fail "nodePort, loadBalancerClass, loadBalancerIP, loadBalancerSourceRanges and externalTrafficPolicy need a Service of the type NodePort or LoadBalancer" -}}
{{- end -}}
{{- end -}}
{{- if and $v.ingress.enabled (not $v.ingress.hosts) -}}
{{- fail "ingress.enabled needs ingress.hosts" -}}
{{- end -}}
{{- if and $v.httpRoute.enabled (not $v.httpRoute.parentRefs) -}}
{{- fail "httpRoute.enabled needs httpRoute.parentRefs" -}}
{{- end -}}
{{- end -}}
