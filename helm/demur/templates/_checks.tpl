{{/* Refuses combinations that a schema cannot see. Renders nothing. */}}
{{- define "demur.checks" -}}
{{- $v := .Values -}}
{{- $sidecar := or $v.sidecar.enabled $v.sidecarExample.enabled -}}
{{- $_ := include "demur.checks.monitors" . -}}
{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" (include "demur.fullname" .)) -}}
{{- fail (printf "%q cannot name a Service: it must be lower case and begin with a letter; set fullnameOverride" (include "demur.fullname" .)) -}}
{{- end -}}
{{- if ne (len (uniq (list (int $v.ports.grpc) (int $v.ports.metrics) (int $v.ports.health)))) 3 -}}
{{- fail "ports.grpc, ports.metrics and ports.health must differ" -}}
{{- end -}}
{{- if and $v.tls.mutual.enabled (not $v.tls.enabled) -}}
{{- fail "tls.mutual.enabled needs tls.enabled: client certificates exist only inside TLS" -}}
{{- end -}}
{{- if and $v.tls.enabled (not $v.tls.secret) -}}
{{- fail "tls.enabled needs tls.secret: the name of an existing kubernetes.io/tls Secret" -}}
{{- end -}}
{{- if and $v.tls.enabled (not $v.healthPort.enabled) -}}
{{- fail "tls.enabled needs healthPort.enabled: the kubelet's gRPC probes speak no TLS" -}}
{{- end -}}
{{- if and $sidecar (not $v.healthPort.enabled) -}}
{{- fail "the sidecar needs healthPort.enabled: the kubelet cannot probe a Unix socket or the pod's localhost" -}}
{{- end -}}
{{- if and $v.sidecarExample.enabled (not $v.sidecarExample.modelServer.image) -}}
{{- fail "sidecarExample.enabled needs sidecarExample.modelServer.image" -}}
{{- end -}}
{{- if and $v.service.headless (ne $v.service.type "ClusterIP") -}}
{{- fail (printf "service.headless needs service.type ClusterIP, not %s" $v.service.type) -}}
{{- end -}}
{{- if $v.podDisruptionBudget.enabled -}}
{{- if eq (empty (toString $v.podDisruptionBudget.minAvailable)) (empty (toString $v.podDisruptionBudget.maxUnavailable)) -}}
{{- fail "podDisruptionBudget takes exactly one of minAvailable and maxUnavailable; set the other to \"\"" -}}
{{- end -}}
{{- end -}}
{{- if and $v.networkPolicy.enabled $v.config.telemetry.otlp_endpoint (not $v.networkPolicy.egress) -}}
{{- fail "networkPolicy.egress is empty, so nothing would reach config.telemetry.otlp_endpoint: add a rule for the collector" -}}
{{- end -}}
{{- $_ := include "demur.checks.audit" . -}}
{{- end -}}

{{- define "demur.checks.monitors" -}}
{{- $v := .Values -}}
{{- $sources := compact (list $v.bundles.configMap $v.bundles.secret $v.bundles.persistentVolumeClaim) -}}
{{- if not $v.config.monitors -}}
{{- fail "config.monitors is empty: name at least one monitor and its bundle, for example config.monitors: [{name: digits, bundle: digits.demur}]" -}}
{{- end -}}
{{- if gt (len $sources) 1 -}}
{{- fail "bundles takes one of configMap, secret and persistentVolumeClaim, not several" -}}
{{- end -}}
{{- if and $v.publicKeys.configMap $v.publicKeys.secret -}}
{{- fail "publicKeys takes one of configMap and secret, not both" -}}
{{- end -}}
{{- $names := list -}}
{{- range $v.config.monitors -}}
{{- if has .name $names -}}
{{- fail (printf "two monitors are named %q" .name) -}}
{{- end -}}
{{- $names = append $names .name -}}
{{- if and (not (hasPrefix "/" .bundle)) (not $sources) -}}
{{- fail (printf "monitor %q: bundle %q is a file of `bundles`, which names no ConfigMap, Secret or PersistentVolumeClaim" .name .bundle) -}}
{{- end -}}
{{- if and .require_signature (not .public_keys) -}}
{{- fail (printf "monitor %q: require_signature needs public_keys" .name) -}}
{{- end -}}
{{- range $key := .public_keys -}}
{{- if and (not (hasPrefix "/" $key)) (not (or $v.publicKeys.configMap $v.publicKeys.secret)) -}}
{{- fail (printf "public key %q is a file of `publicKeys`, which names no ConfigMap or Secret" $key) -}}
{{- end -}}
{{- end -}}
{{- if and .audit (not $v.audit.enabled) -}}
{{- fail (printf "monitor %q has an audit section, but audit.enabled is false" .name) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "demur.checks.audit" -}}
{{- $v := .Values -}}
{{- $claim := $v.audit.persistentVolumeClaim -}}
{{- if $v.audit.enabled -}}
{{- if and $claim.enabled $v.audit.emptyDir.enabled -}}
{{- fail "audit takes one of persistentVolumeClaim and emptyDir, not both: set audit.emptyDir.enabled=false" -}}
{{- end -}}
{{- if not (or $claim.enabled $v.audit.emptyDir.enabled) -}}
{{- fail "audit.enabled needs a volume: enable audit.persistentVolumeClaim or audit.emptyDir" -}}
{{- end -}}
{{- if and $claim.enabled (ne $claim.accessMode "ReadWriteMany") -}}
{{- if and $v.standalone.enabled (gt (int $v.replicaCount) 1) -}}
{{- fail (printf "replicaCount %d cannot share one %s audit claim: use ReadWriteMany (each pod gets a directory of its own) or one replica" (int $v.replicaCount) $claim.accessMode) -}}
{{- end -}}
{{- if and $v.standalone.enabled (or $v.sidecar.enabled $v.sidecarExample.enabled) -}}
{{- fail (printf "the standalone service and the sidecars cannot share one %s audit claim: use ReadWriteMany, or two releases" $claim.accessMode) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
