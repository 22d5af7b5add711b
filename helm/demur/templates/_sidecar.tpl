{{/*
The native sidecar: an initContainer that keeps running. The next container starts only after its startupProbe, that is,
when every monitor has passed its self-test. Takes this chart's context: `.` here, `.Subcharts.demur` in a parent chart.
*/}}
{{- define "demur.sidecar" -}}
{{- include "demur.container" (dict "root" . "role" "sidecar") -}}
{{- end -}}

{{- define "demur.sidecar.volumes" -}}
{{- include "demur.volumes" (dict "root" . "role" "sidecar") -}}
{{- end -}}

{{/* What the model server mounts to reach the socket; empty for the localhost transport. */}}
{{- define "demur.sidecar.clientMounts" -}}
{{- if eq .Values.sidecar.transport "unix" -}}
- {name: demur-socket, mountPath: /run/demur}
{{- end -}}
{{- end -}}

{{/* Changes when demur.yaml does; put it in the pod's annotations. */}}
{{- define "demur.sidecar.checksum" -}}
{{- include "demur.config" (dict "root" . "role" "sidecar") | sha256sum -}}
{{- end -}}
