{{- define "demur.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "demur.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else if contains (include "demur.name" .) .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "demur.name" .) | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "demur.configName" -}}
{{- include "demur.fullname" .root -}}{{ if eq .role "sidecar" }}-sidecar{{ end }}
{{- end -}}

{{- define "demur.auditClaim" -}}
{{- default (printf "%s-audit" (include "demur.fullname" .)) .Values.audit.persistentVolumeClaim.existingClaim -}}
{{- end -}}

{{- define "demur.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "demur.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "demur.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ default $.Chart.AppVersion .tag }}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Labels that selectors use: they never change over a release's life. Takes root and component. */}}
{{- define "demur.selectorLabels" -}}
app.kubernetes.io/name: {{ include "demur.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "demur.labels" -}}
{{ include "demur.selectorLabels" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
app.kubernetes.io/part-of: demur
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name (replace "+" "_" .root.Chart.Version) }}
{{- end -}}

{{/* The address a client in the same pod dials. */}}
{{- define "demur.sidecar.address" -}}
{{- if eq .Values.sidecar.transport "unix" -}}unix:/run/demur/demur.sock{{- else -}}127.0.0.1:{{ int .Values.ports.grpc }}{{- end -}}
{{- end -}}
