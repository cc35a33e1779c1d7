{{- define "shutterless.name" -}}
{{ .Release.Name | trunc 50 | trimSuffix "-" }}
{{- end }}

{{- define "shutterless.selector" -}}
app.kubernetes.io/name: shutterless
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "shutterless.labels" -}}
{{ include "shutterless.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{/* "true" while something of the state lies on the volume, which one server can have at a time. */}}
{{- define "shutterless.alone" -}}
{{ not (and .Values.database.secret .Values.objects) }}
{{- end }}

{{/* For who has several servers, and no secret with which they sign forms for each other. */}}
{{- define "shutterless.form-secret-command" -}}
kubectl -n {{ .Release.Namespace }} patch secret {{ .Values.keys.secret }} --type merge -p "{\"stringData\":{\"form-secret\":\"$(openssl rand -hex 24)\"}}"
{{- end }}
