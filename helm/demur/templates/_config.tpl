{{/* demur.yaml. Takes root and role (standalone | sidecar). */}}
{{- define "demur.config" -}}
{{- $v := .root.Values -}}
{{- $config := $v.config -}}
{{- $standalone := eq .role "standalone" -}}
listen:
{{- if $standalone }}
  - {{ printf "%s:%d" $v.bindAddress (int $v.ports.grpc) | quote }}
{{- else }}
  - {{ include "demur.sidecar.address" .root | quote }}
{{- end }}
{{- if $v.healthPort.enabled }}
health_listen: {{ printf "%s:%d" $v.bindAddress (int $v.ports.health) | quote }}
{{- end }}
{{- if $v.metrics.enabled }}
metrics_listen: {{ printf "%s:%d" $v.bindAddress (int $v.ports.metrics) | quote }}
{{- end }}
{{- if and $standalone $v.tls.enabled }}
tls:
  certificate: {{ printf "/run/secrets/demur/tls/%s" $v.tls.certificate | quote }}
  key: {{ printf "/run/secrets/demur/tls/%s" $v.tls.key | quote }}
  {{- if $v.tls.mutual.enabled }}
  client_ca: {{ printf "/run/secrets/demur/client-ca/%s" $v.tls.mutual.clientCA | quote }}
  {{- end }}
{{- end }}
{{- if and $standalone $v.token.secret }}
token_file: {{ printf "/run/secrets/demur/token/%s" $v.token.key | quote }}
{{- end }}
monitors:
{{- range $config.monitors }}
  {{- include "demur.config.monitor" . | nindent 2 }}
{{- end }}
{{- if $v.audit.enabled }}
audit:
  {{- include "demur.config.audit" . | nindent 2 }}
{{- end }}
{{- if $config.proxy }}
proxy:
  {{- include "demur.config.proxy" . | trim | nindent 2 }}
{{- end }}
{{- if $config.ext_proc }}
ext_proc:
  {{- include "demur.config.extProc" . | trim | nindent 2 }}
{{- end }}
{{- with $config.telemetry }}
telemetry:
  {{- range $key, $value := omit . "trace_ratio" }}
  {{ $key }}: {{ toJson $value }}
  {{- end }}
  {{- if hasKey . "trace_ratio" }}
  trace_ratio: {{ include "demur.fraction" .trace_ratio }}
  {{- end }}
{{- end }}
{{- with $config.limits }}
limits:
  {{- range $key, $value := . }}
  {{ $key }}: {{ int64 $value }}
  {{- end }}
{{- end }}
drain_seconds: {{ int $config.drain_seconds }}
{{- end -}}

{{- define "demur.config.monitor" -}}
- name: {{ quote .name }}
  bundle: {{ include "demur.path" (dict "path" .bundle "directory" "/bundles") }}
{{- range $key := list "mode" "on_failure" "require_signature" "threads" "providers" }}
{{- if hasKey $ $key }}
  {{ $key }}: {{ get $ $key | toJson }}
{{- end }}
{{- end }}
{{- if hasKey . "budget_ms" }}
  budget_ms: {{ include "demur.fraction" .budget_ms }}
{{- end }}
{{- with .audit }}
  audit:
    {{- toYaml . | nindent 4 }}
{{- end }}
{{- with .public_keys }}
  public_keys:
    {{- range . }}
    - {{ include "demur.path" (dict "path" . "directory" "/public-keys") }}
    {{- end }}
{{- end }}
{{- end -}}

{{- define "demur.config.proxy" -}}
{{- $v := .root.Values -}}
{{- $proxy := $v.config.proxy -}}
{{- $authority := printf "/run/secrets/demur/upstream-ca/%s" $v.upstreamCA.key -}}
{{- if $proxy.upstream }}
listen: {{ printf "%s:%d" $v.bindAddress (int $v.ports.proxy) | quote }}
{{- if $v.upstreamCA.secret }}
upstream_tls_ca: {{ quote $authority }}
{{- end }}
{{- end }}
{{- include "demur.config.keys" (dict "of" (omit $proxy "rest" "models")) }}
{{- with $proxy.rest }}
rest:
  listen: {{ printf "%s:%d" $v.bindAddress (int $v.ports.proxyRest) | quote }}
  {{- include "demur.config.keys" (dict "of" .) | trim | nindent 2 }}
  {{- if and $v.upstreamCA.secret (hasPrefix "https:" .upstream) }}
  upstream_tls_ca: {{ quote $authority }}
  {{- end }}
{{- end }}
models:
  {{- include "demur.config.models" $proxy.models | trim | nindent 2 }}
{{- end -}}

{{- define "demur.config.extProc" -}}
{{- $v := .root.Values -}}
{{- $given := $v.config.ext_proc -}}
{{- $host := ternary $v.bindAddress "127.0.0.1" (eq .role "standalone") -}}
listen: {{ printf "%s:%d" $host (int $v.ports.extProc) | quote }}
{{- include "demur.config.keys" (dict "of" (omit $given "infer" "completions" "budget_ms")) }}
{{- if hasKey $given "budget_ms" }}
budget_ms: {{ include "demur.fraction" $given.budget_ms }}
{{- end }}
{{- with $given.infer }}
infer:
  {{- include "demur.config.models" . | trim | nindent 2 }}
{{- end }}
{{- with $given.completions }}
completions:
  {{- include "demur.config.models" . | trim | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Keys that go through as they are. JSON, because it keeps every digit of a number. */}}
{{- define "demur.config.keys" -}}
{{- range $key, $value := .of }}
{{ $key }}: {{ toJson $value }}
{{- end }}
{{- end -}}

{{- define "demur.config.models" -}}
{{- range $name, $model := . }}
{{- $own := deepCopy $model -}}
{{- with $model.map -}}
{{- $_ := set $own "map" (ternary . (printf "/bundles/%s" .) (hasPrefix "/" .)) -}}
{{- end }}
{{ quote $name }}: {{ toJson $own }}
{{- end }}
{{- end -}}

{{- define "demur.config.audit" -}}
{{- $audit := .root.Values.audit -}}
directory: /var/lib/demur/audit
origin: {{ include "demur.audit.origin" .root | quote }}
{{- if $audit.signingKey.secret }}
key_file: {{ printf "/run/secrets/demur/audit-key/%s" $audit.signingKey.key | quote }}
{{- end }}
checkpoint_stdout: {{ $audit.checkpoint_stdout }}
{{- with $audit.witness_url }}
witness_url: {{ quote . }}
{{- end }}
{{- if include "demur.spills" .root }}
spill_directory: /var/spool/demur
{{- end }}
{{- end -}}

{{- define "demur.audit.origin" -}}
{{- default (printf "%s/%s" .Release.Namespace (include "demur.fullname" .)) .Values.audit.origin -}}
{{- end -}}

{{/* Not empty when each pod keeps a log of its own. */}}
{{- define "demur.audit.perPod" -}}
{{- $audit := .root.Values.audit -}}
{{- if and $audit.enabled (or (eq .role "sidecar") $audit.emptyDir.enabled (gt (int .root.Values.replicaCount) 1)) -}}yes{{- end -}}
{{- end -}}

{{/* Not empty when a monitor spills records that the log cannot take. */}}
{{- define "demur.spills" -}}
{{- range .Values.config.monitors }}{{ if eq (dig "audit" "on_failure" "" .) "spill" }}yes{{ end }}{{ end -}}
{{- end -}}

{{- define "demur.path" -}}
{{- ternary .path (printf "%s/%s" .directory .path) (hasPrefix "/" .path) | quote -}}
{{- end -}}

{{/* A fraction in plain digits: YAML 1.1 reads 1e-05 as text. */}}
{{- define "demur.fraction" -}}
{{- printf "%.6f" (float64 .) -}}
{{- end -}}
