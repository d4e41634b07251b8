{{/* Shared by several templates. validate.yaml rejects values that contradict each other. */}}

{{- define "worklease.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* At most 43 characters, so that a name with a suffix still fits into 63. */}}
{{- define "worklease.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 43 | trimSuffix "-" -}}
{{- else if contains (include "worklease.name" .) .Release.Name -}}
{{- .Release.Name | trunc 43 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "worklease.name" .) | trunc 43 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* The selector labels of a component, which never change during its life. Called with (list $ "component"). */}}
{{- define "worklease.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ include "worklease.name" $root }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{/* The labels of an object. Called with (list $ "component"). */}}
{{- define "worklease.labels" -}}
{{- $root := index . 0 -}}
{{ include "worklease.selector" . }}
app.kubernetes.io/part-of: worklease
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
{{- with $root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "worklease.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "worklease.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "worklease.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{- printf "%s@%s" .repository .digest -}}
{{- else -}}
{{- printf "%s:%s" .repository (default $.Chart.AppVersion .tag) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "worklease.checkpointNamespace" -}}
{{- default .Release.Namespace .Values.config.checkpointNamespace -}}
{{- end -}}

{{- define "worklease.httpPort" -}}
{{- .Values.config.httpAddress | splitList ":" | last -}}
{{- end -}}

{{/* The Secrets that the operator may get in each watched namespace, as a YAML list. */}}
{{- define "worklease.secretNames" -}}
{{- default (list .Values.config.credentialsSecret) .Values.credentials.secretNames | uniq | toYaml -}}
{{- end -}}

{{/* All Secrets that hold keys of the Work API and are known by name, as a YAML list. */}}
{{- define "worklease.allSecretNames" -}}
{{- $names := append (include "worklease.secretNames" . | fromYamlArray) .Values.config.credentialsSecret -}}
{{- range .Values.credentials.tenants -}}
{{- $names = concat $names .secretNames -}}
{{- end -}}
{{- without $names "*" | uniq | sortAlpha | toYaml -}}
{{- end -}}

{{/* The namespaces in which any Secret may hold a key, as a YAML list. */}}
{{- define "worklease.openNamespaces" -}}
{{- $names := list -}}
{{- range .Values.credentials.tenants -}}
{{- if has "*" .secretNames -}}
{{- $names = append $names .namespace -}}
{{- end -}}
{{- end -}}
{{- $names | toYaml -}}
{{- end -}}

{{- define "worklease.apiURL" -}}
{{- if .Values.simulator.enabled -}}
{{- printf "http://%s-simulator.%s.svc:8090" (include "worklease.fullname" .) .Release.Namespace -}}
{{- else -}}
{{- .Values.config.apiURL -}}
{{- end -}}
{{- end -}}

{{/* The environment variables that every command of the program needs. */}}
{{- define "worklease.scopeEnv" -}}
- name: WORKLEASE_NAMESPACES
  value: {{ join "," .Values.watchNamespaces | quote }}
- name: WORKLEASE_LOG_FORMAT
  value: {{ .Values.config.logFormat | quote }}
- name: WORKLEASE_LOG_LEVEL
  value: {{ .Values.config.logLevel | quote }}
{{- end -}}

{{/* The part of a pod's spec that says where it may run. */}}
{{- define "worklease.placement" -}}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.topologySpreadConstraints }}
topologySpreadConstraints:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}
