{{/* Mounts of the demur container. No mount path lies under another: runc cannot create one inside a read-only volume. */}}
{{- define "demur.volumeMounts" -}}
{{- $v := .root.Values -}}
- {name: demur-config, mountPath: /etc/demur, readOnly: true}
- {name: demur-tmp, mountPath: /tmp}
{{- if include "demur.bundles.source" .root }}
- {name: demur-bundles, mountPath: /bundles, readOnly: true}
{{- end }}
{{- if or $v.publicKeys.configMap $v.publicKeys.secret }}
- {name: demur-public-keys, mountPath: /public-keys, readOnly: true}
{{- end }}
{{- if $v.audit.enabled }}
- {name: demur-audit, mountPath: /var/lib/demur}
{{- if include "demur.spills" .root }}
- {name: demur-spill, mountPath: /var/spool/demur}
{{- end }}
{{- if $v.audit.signingKey.secret }}
- {name: demur-audit-key, mountPath: /run/secrets/demur/audit-key, readOnly: true}
{{- end }}
{{- end }}
{{- if and $v.config.proxy $v.upstreamCA.secret }}
- {name: demur-upstream-ca, mountPath: /run/secrets/demur/upstream-ca, readOnly: true}
{{- end }}
{{- if eq .role "sidecar" }}
{{- if eq $v.sidecar.transport "unix" }}
- {name: demur-socket, mountPath: /run/demur}
{{- end }}
{{- else }}
{{- if $v.tls.enabled }}
- {name: demur-tls, mountPath: /run/secrets/demur/tls, readOnly: true}
{{- if $v.tls.mutual.enabled }}
- {name: demur-client-ca, mountPath: /run/secrets/demur/client-ca, readOnly: true}
{{- end }}
{{- end }}
{{- if $v.token.secret }}
- {name: demur-token, mountPath: /run/secrets/demur/token, readOnly: true}
{{- end }}
{{- end }}
{{- end -}}

{{/* Volumes for the mounts above. In somebody else's pod there is no fsGroup to open a group-only secret with. */}}
{{- define "demur.volumes" -}}
{{- $v := .root.Values -}}
{{- $mode := ternary "0440" "0444" (eq .role "standalone") -}}
- name: demur-config
  configMap: {name: {{ include "demur.configName" . }}}
- name: demur-tmp
  emptyDir: {sizeLimit: 64Mi}
{{- with include "demur.bundles.source" .root }}
- name: demur-bundles
  {{- nindent 2 . }}
{{- end }}
{{- if $v.publicKeys.configMap }}
- name: demur-public-keys
  configMap: {name: {{ $v.publicKeys.configMap }}}
{{- else if $v.publicKeys.secret }}
- name: demur-public-keys
  secret: {secretName: {{ $v.publicKeys.secret }}}
{{- end }}
{{- if $v.audit.enabled }}
- name: demur-audit
  {{- if $v.audit.persistentVolumeClaim.enabled }}
  persistentVolumeClaim: {claimName: {{ include "demur.auditClaim" .root }}}
  {{- else }}
  emptyDir: {sizeLimit: {{ $v.audit.emptyDir.sizeLimit | quote }}}
  {{- end }}
{{- if include "demur.spills" .root }}
- name: demur-spill
  emptyDir: {sizeLimit: {{ $v.audit.spillSizeLimit | quote }}}
{{- end }}
{{- with $v.audit.signingKey }}
{{- if .secret }}
- name: demur-audit-key
  {{- include "demur.secretVolume" (dict "secret" .secret "keys" (list .key) "mode" $mode) | nindent 2 }}
{{- end }}
{{- end }}
{{- end }}
{{- if and $v.config.proxy $v.upstreamCA.secret }}
- name: demur-upstream-ca
  {{- include "demur.secretVolume" (dict "secret" $v.upstreamCA.secret "keys" (list $v.upstreamCA.key) "mode" $mode) | nindent 2 }}
{{- end }}
{{- if eq .role "sidecar" }}
{{- if eq $v.sidecar.transport "unix" }}
- name: demur-socket
  emptyDir: {medium: Memory, sizeLimit: 1Mi}
{{- end }}
{{- else }}
{{- with $v.tls }}
{{- if .enabled }}
- name: demur-tls
  {{- include "demur.secretVolume" (dict "secret" .secret "keys" (list .certificate .key) "mode" $mode) | nindent 2 }}
{{- if .mutual.enabled }}
- name: demur-client-ca
  {{- include "demur.secretVolume" (dict "secret" (default .secret .mutual.secret) "keys" (list .mutual.clientCA) "mode" $mode) | nindent 2 }}
{{- end }}
{{- end }}
{{- end }}
{{- with $v.token }}
{{- if .secret }}
- name: demur-token
  {{- include "demur.secretVolume" (dict "secret" .secret "keys" (list .key) "mode" $mode) | nindent 2 }}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "demur.bundles.source" -}}
{{- with .Values.bundles -}}
{{- if .configMap -}}
configMap: {name: {{ .configMap }}}
{{- else if .secret -}}
secret: {secretName: {{ .secret }}}
{{- else if .persistentVolumeClaim -}}
persistentVolumeClaim: {claimName: {{ .persistentVolumeClaim }}, readOnly: true}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "demur.secretVolume" -}}
secret:
  secretName: {{ .secret }}
  defaultMode: {{ .mode }}
  items:
    {{- range .keys }}
    - {key: {{ quote . }}, path: {{ quote . }}}
    {{- end }}
{{- end -}}
