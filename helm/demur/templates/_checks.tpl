{{/* Refuses combinations that a schema cannot see. Renders nothing. */}}
{{- define "demur.checks" -}}
{{- $v := .Values -}}
{{- $sidecar := or $v.sidecar.enabled $v.sidecarExample.enabled -}}
{{- $_ := include "demur.checks.monitors" . -}}
{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" (include "demur.fullname" .)) -}}
{{- fail (printf "%q cannot name a Service: it must be lower case and begin with a letter; set fullnameOverride" (include "demur.fullname" .)) -}}
{{- end -}}
{{- if ne (len (uniq (values $v.ports))) (len $v.ports) -}}
{{- fail (printf "ports must differ: %s" (toJson $v.ports)) -}}
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
{{- $_ := include "demur.checks.proxy" . -}}
{{- $_ := include "demur.checks.extProc" . -}}
{{- end -}}

{{- define "demur.checks.proxy" -}}
{{- $v := .Values -}}
{{- $proxy := $v.config.proxy -}}
{{- if $proxy -}}
{{- $rest := dig "rest" "upstream" "" $proxy -}}
{{- if not (or $proxy.upstream $rest) -}}
{{- fail "config.proxy needs upstream (gRPC), rest.upstream, or both" -}}
{{- end -}}
{{- $_ := include "demur.checks.models" (dict "root" . "where" "config.proxy.models" "models" (default dict $proxy.models)) -}}
{{- if $v.standalone.enabled -}}
{{- if or $v.sidecar.enabled $v.sidecarExample.enabled -}}
{{- fail "config.proxy is either the standalone service's or the sidecars', whose upstreams differ: use two releases" -}}
{{- end -}}
{{- range $upstream := compact (list $proxy.upstream $rest) -}}
{{- if regexMatch "^(unix:|(https?://)?(127\\.|localhost:|\\[::1\\]))" $upstream -}}
{{- fail (printf "config.proxy: %q is the standalone pod itself, where no model runs: name the model's Service, or use a sidecar" $upstream) -}}
{{- end -}}
{{- end -}}
{{- if and $v.networkPolicy.enabled (not $v.networkPolicy.egress) -}}
{{- fail "networkPolicy.egress is empty, so nothing would reach config.proxy's upstream: add a rule for the inference server" -}}
{{- end -}}
{{- end -}}
{{- if and $v.upstreamCA.secret (not (or $proxy.upstream (hasPrefix "https:" $rest))) -}}
{{- fail "upstreamCA.secret is given and config.proxy.rest.upstream begins with http: write https" -}}
{{- end -}}
{{- else if $v.upstreamCA.secret -}}
{{- fail "upstreamCA.secret is for config.proxy, which is empty" -}}
{{- end -}}
{{- end -}}

{{- define "demur.checks.extProc" -}}
{{- $given := .Values.config.ext_proc -}}
{{- if $given -}}
{{- $models := merge (dict) (default dict $given.infer) (default dict $given.completions) -}}
{{- $_ := include "demur.checks.models" (dict "root" . "where" "config.ext_proc" "models" $models) -}}
{{- range $name, $model := $given.infer -}}
{{- if eq (default "" $model.on_abstain) "fallback" -}}
{{- fail (printf "config.ext_proc: infer model %q: on_abstain: fallback needs a proxy; Envoy's filter cannot ask again" $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "demur.checks.models" -}}
{{- $v := .root.Values -}}
{{- $where := .where -}}
{{- $names := list -}}
{{- range $v.config.monitors -}}{{- $names = append $names .name -}}{{- end -}}
{{- if not .models -}}
{{- fail (printf "%s names no model" .where) -}}
{{- end -}}
{{- range $name, $model := .models -}}
{{- if not (has $model.monitor $names) -}}
{{- fail (printf "%s: model %q: no monitor is named %q" $where $name $model.monitor) -}}
{{- end -}}
{{- with $model.map -}}
{{- if and (not (hasPrefix "/" .)) (not (or $v.bundles.configMap $v.bundles.secret $v.bundles.persistentVolumeClaim)) -}}
{{- fail (printf "%s: model %q: map %q is a file of `bundles`, which names no ConfigMap, Secret or PersistentVolumeClaim" $where $name .) -}}
{{- end -}}
{{- end -}}
{{- end -}}
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
