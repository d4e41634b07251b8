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

{{/* The environment variables of the operator: all of its settings, and the way through a proxy. */}}
{{- define "worklease.env" -}}
- name: WORKLEASE_API_URL
  value: {{ include "worklease.apiURL" . | quote }}
{{- include "worklease.scopeEnv" . | nindent 0 }}
- name: WORKLEASE_NAMESPACE
  value: {{ include "worklease.checkpointNamespace" . | quote }}
# A container that is started again in its pod goes on at once with what the one before it left.
- name: WORKLEASE_POD_UID
  valueFrom:
    fieldRef:
      fieldPath: metadata.uid
- name: WORKLEASE_POOL_NAMESPACES
  value: {{ join "," .Values.pools.namespaces | quote }}
- name: WORKLEASE_CREDENTIALS_SECRET
  value: {{ .Values.config.credentialsSecret | quote }}
- name: WORKLEASE_SANDBOX_ANNOTATIONS
  value: {{ include "worklease.sandboxAnnotations" . | quote }}
- name: WORKLEASE_PROXY_IMAGE
  value: {{ .Values.workerProxy.image | default (include "worklease.image" .) | quote }}
- name: WORKLEASE_MAX_HEARTBEAT_INTERVAL
  value: {{ .Values.config.maxHeartbeatInterval | quote }}
- name: WORKLEASE_REQUESTS_PER_MINUTE
  value: {{ .Values.config.requestsPerMinute | int64 | quote }}
- name: WORKLEASE_STATUS_WRITES_PER_SECOND
  value: {{ .Values.config.statusWritesPerSecond | quote }}
- name: WORKLEASE_HTTP_ADDRESS
  value: {{ .Values.config.httpAddress | quote }}
{{- if or .Values.proxy.httpsProxy .Values.proxy.httpProxy }}
{{- with .Values.proxy.httpsProxy }}
- name: HTTPS_PROXY
  value: {{ . | quote }}
{{- end }}
{{- with .Values.proxy.httpProxy }}
- name: HTTP_PROXY
  value: {{ . | quote }}
{{- end }}
- name: NO_PROXY
  value: {{ join "," (concat (list "$(KUBERNETES_SERVICE_HOST)" ".svc" ".cluster.local" "localhost" "127.0.0.1") .Values.proxy.noProxy) | quote }}
{{- end }}
{{- if .Values.privateCA.configMapName }}
- name: SSL_CERT_FILE
  value: /etc/worklease/authorities/{{ .Values.privateCA.key }}
{{- end }}
{{- with .Values.extraEnv }}
{{- toYaml . | nindent 0 }}
{{- end }}
{{- end -}}

{{- define "worklease.volumeMounts" -}}
{{- if or .Values.privateCA.configMapName .Values.extraVolumeMounts }}
volumeMounts:
  {{- if .Values.privateCA.configMapName }}
  - name: authorities
    mountPath: /etc/worklease/authorities
    readOnly: true
  {{- end }}
  {{- with .Values.extraVolumeMounts }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}
{{- end -}}

{{- define "worklease.volumes" -}}
{{- if or .Values.privateCA.configMapName .Values.extraVolumes }}
volumes:
  {{- with .Values.privateCA.configMapName }}
  - name: authorities
    configMap:
      name: {{ . }}
  {{- end }}
  {{- with .Values.extraVolumes }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}
{{- end -}}

{{- /* The annotations of sandbox pods, as JSON. An empty map is none: the default applies only where there is no map. */ -}}
{{- define "worklease.sandboxAnnotations" -}}
{{- if kindIs "map" .Values.sandboxAnnotations -}}
{{- toJson .Values.sandboxAnnotations -}}
{{- else -}}
{{- dict "cluster-autoscaler.kubernetes.io/safe-to-evict" "false" "karpenter.sh/do-not-disrupt" "true" | toJson -}}
{{- end -}}
{{- end -}}
