{{/* The demur container. Takes root and role (standalone | sidecar). */}}
{{- define "demur.container" -}}
{{- $v := .root.Values -}}
{{- $probePort := ternary $v.ports.health $v.ports.grpc $v.healthPort.enabled | int -}}
- name: demur
  image: {{ include "demur.image" .root | quote }}
  imagePullPolicy: {{ $v.image.pullPolicy }}
  {{- if eq .role "sidecar" }}
  restartPolicy: Always
  {{- end }}
  args: ["serve", "--config", "/etc/demur/demur.yaml"]
  env:
    {{- include "demur.env" . | trim | nindent 4 }}
  ports:
    {{- include "demur.containerPorts" . | trim | nindent 4 }}
  startupProbe:
    grpc: {port: {{ $probePort }}, service: readiness}
    {{- include "demur.probeTimes" $v.probes.startup | nindent 4 }}
  readinessProbe:
    grpc: {port: {{ $probePort }}, service: readiness}
    {{- include "demur.probeTimes" $v.probes.readiness | nindent 4 }}
  livenessProbe:
    grpc: {port: {{ $probePort }}, service: liveness}
    {{- include "demur.probeTimes" $v.probes.liveness | nindent 4 }}
  {{- if and (eq .role "standalone") (gt (int $v.preStopSleepSeconds) 0) }}
  lifecycle:
    preStop:
      exec:
        command: ["sleep", {{ int $v.preStopSleepSeconds | quote }}]
  {{- end }}
  resources:
    {{- include "demur.resources" $v.resources | trim | nindent 4 }}
  securityContext:
    {{- include "demur.securityContext" .root | nindent 4 }}
  volumeMounts:
    {{- include "demur.volumeMounts" . | nindent 4 }}
{{- end -}}

{{- define "demur.containerPorts" -}}
{{- $v := .root.Values -}}
{{- if eq .role "standalone" }}
- {name: grpc, containerPort: {{ int $v.ports.grpc }}, protocol: TCP}
{{- if $v.config.ext_proc }}
- {name: demur-ext-proc, containerPort: {{ int $v.ports.extProc }}, protocol: TCP}
{{- end }}
{{- end }}
{{- if $v.config.proxy.upstream }}
- {name: demur-proxy, containerPort: {{ int $v.ports.proxy }}, protocol: TCP}
{{- end }}
{{- if $v.config.proxy.rest }}
- {name: demur-rest, containerPort: {{ int $v.ports.proxyRest }}, protocol: TCP}
{{- end }}
{{- if $v.healthPort.enabled }}
- {name: demur-health, containerPort: {{ int $v.ports.health }}, protocol: TCP}
{{- end }}
{{- if $v.metrics.enabled }}
- {name: demur-metrics, containerPort: {{ int $v.ports.metrics }}, protocol: TCP}
{{- end }}
{{- end -}}

{{- define "demur.probeTimes" -}}
periodSeconds: {{ int .periodSeconds }}
timeoutSeconds: {{ int .timeoutSeconds }}
failureThreshold: {{ int .failureThreshold }}
{{- end -}}

{{/* Hardening is not a value: nothing here needs more. */}}
{{- define "demur.securityContext" -}}
runAsNonRoot: true
{{- with .Values.runAsUser }}
runAsUser: {{ int64 . }}
{{- end }}
{{- with .Values.runAsGroup }}
runAsGroup: {{ int64 . }}
{{- end }}
readOnlyRootFilesystem: true
allowPrivilegeEscalation: false
privileged: false
capabilities: {drop: [ALL]}
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "demur.podSecurityContext" -}}
runAsNonRoot: true
{{- with .Values.runAsUser }}
runAsUser: {{ int64 . }}
{{- end }}
{{- with .Values.runAsGroup }}
runAsGroup: {{ int64 . }}
fsGroup: {{ int64 . }}
fsGroupChangePolicy: OnRootMismatch
{{- end }}
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "demur.env" -}}
{{- $v := .root.Values -}}
{{- $plain := dict "MALLOC_MMAP_THRESHOLD_" (int64 $v.malloc.mmapThresholdBytes | toString) "MALLOC_TRIM_THRESHOLD_" (int64 $v.malloc.trimThresholdBytes | toString) -}}
{{- if include "demur.audit.perPod" . }}
{{- $own := ternary "POD_UID" "POD_NAME" $v.audit.emptyDir.enabled -}}
{{- $_ := set $plain "DEMUR_AUDIT__ORIGIN" (printf "%s/$(%s)" (include "demur.audit.origin" .root) $own) -}}
{{- if $v.audit.persistentVolumeClaim.enabled }}
{{- $_ := set $plain "DEMUR_AUDIT__DIRECTORY" "/var/lib/demur/$(POD_NAME)" -}}
{{- end }}
- {name: {{ $own }}, valueFrom: {fieldRef: {fieldPath: metadata.{{ $own | trimPrefix "POD_" | lower }}}}}
{{- end }}
{{- range $name, $value := merge (dict) $v.extraEnv $plain }}
- {name: {{ $name }}, value: {{ quote $value }}}
{{- end }}
{{- end -}}

{{- define "demur.resources" -}}
{{- range $kind, $amounts := . }}
{{- with $amounts }}
{{ $kind }}:
  {{- range $name, $amount := . }}
  {{ $name }}: {{ if kindIs "string" $amount }}{{ quote $amount }}{{ else if eq (floor $amount) (float64 $amount) }}{{ int64 $amount | quote }}{{ else }}{{ quote $amount }}{{ end }}
  {{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "demur.annotations.scrape" -}}
{{- if and .Values.metrics.enabled .Values.metrics.scrapeAnnotations -}}
prometheus.io/scrape: "true"
prometheus.io/port: {{ int .Values.ports.metrics | quote }}
prometheus.io/path: /metrics
{{- end -}}
{{- end -}}
